/** Choices are made from a seed, before anything happens. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Random } from '../../src/common/random.js';
import { FAULTS, faultSchema, planInjection, TRIGGERS, triggerSchema } from '../../src/inject/index.js';

const seed = fc.integer({ min: 0, max: 2 ** 32 });
const faultTypes = FAULTS.map(({ name }) => name);
const triggers = [
  { type: 'timer' },
  { type: 'function', function: 'schedule', hit: [1, 50] },
  { type: 'subsystem', subsystem: 'timers' },
];

describe('planInjection', () => {
  it('gives the same plan for the same seed', () => {
    fc.assert(
      fc.property(seed, fc.constantFrom(...faultTypes), fc.constantFrom(...triggers), (n, type, trigger) => {
        const plan = () => planInjection(new Random(n), faultSchema.parse({ type }), triggerSchema.parse(trigger));
        expect(plan()).toEqual(plan());
      }),
    );
  });

  it('gives a plan that survives a run log', () => {
    fc.assert(
      fc.property(seed, fc.constantFrom(...faultTypes), fc.constantFrom(...triggers), (n, type, trigger) => {
        const plan = planInjection(new Random(n), faultSchema.parse({ type }), triggerSchema.parse(trigger));
        expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
      }),
    );
  });

  it('has fixed choices for a known seed, so that a campaign can be repeated with a later version', () => {
    const plan = planInjection(
      new Random(20_181),
      faultSchema.parse({ type: 'register' }),
      triggerSchema.parse({ type: 'timer' }),
    );
    expect(plan).toMatchInlineSnapshot(`
      {
        "fault": "register",
        "faultChoice": {
          "bit": 25,
          "register": "rsi",
        },
        "trigger": "timer",
        "triggerChoice": {
          "delayMs": 3886,
          "instructions": 3740,
          "limitMs": 10000,
          "retries": 1794659547,
          "victim": 1008900407,
        },
      }
    `);
  });

  it('draws every register and every bit, and no reserved flag', () => {
    const seen = new Map<string, Set<number>>();
    for (let n = 0; n < 20_000; n++) {
      const { faultChoice } = planInjection(
        new Random(n),
        faultSchema.parse({ type: 'register' }),
        triggerSchema.parse({ type: 'timer' }),
      );
      const { register, bit } = faultChoice as { register: string; bit: number };
      seen.set(register, (seen.get(register) ?? new Set()).add(bit));
    }
    expect(seen.size).toBe(18);
    for (const [register, bits] of seen) expect(bits.size).toBe(register === 'rflags' ? 17 : 64);
    for (const reserved of [1, 3, 5, 15, 17, 22, 31]) expect(seen.get('rflags')!.has(reserved)).toBe(false);
  });
});

describe('the tables', () => {
  it('name each type once, as its schema does', () => {
    for (const [table, schema] of [
      [FAULTS, faultSchema],
      [TRIGGERS, triggerSchema],
    ] as const) {
      expect(new Set(table.map(({ name }) => name)).size).toBe(table.length);
      expect(table.map(({ name }) => name).sort()).toEqual(
        schema.options.map((option) => [...option.shape.type.values][0]).sort(),
      );
    }
  });

  it('refuse unknown fields, unknown types and impossible values', () => {
    for (const bad of [
      { type: 'register', bit: 3 },
      { type: 'registers' },
      { type: 'register', registers: [] },
      { type: 'memory', region: 'guest' },
      { type: 'code', repair: 'yes' },
      {},
    ])
      expect(faultSchema.safeParse(bad).success).toBe(false);
    for (const bad of [
      { type: 'timer', delayMs: [10, 5] },
      { type: 'timer', instructions: [-1, 5] },
      { type: 'timer', instructions: 5 },
      { type: 'function' },
      { type: 'function', function: 'schedule', hit: [0, 1] },
      { type: 'subsystem', subsystem: 'pci' },
    ])
      expect(triggerSchema.safeParse(bad).success).toBe(false);
  });
});
