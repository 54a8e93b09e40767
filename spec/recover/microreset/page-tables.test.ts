import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { RecordingView } from '../../../src/recover/capsule.js';
import { makePlan } from '../../../src/recover/mechanism.js';
import { pageFrames, pageFramesBy } from '../../../src/recover/microreset/page-frames.js';
import { pageTables, pageTablesBy } from '../../../src/recover/microreset/page-tables.js';
import type { Plan } from '../../../src/recover/plan.js';
import type { Step } from '../../../src/recover/step.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { pageInfo } from '../../../src/xen/frames.js';
import { FakeXen } from '../../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

const constant = (name: string): bigint => BigInt(fake.profile.constant(name));
const descriptor = (frame: number): bigint => pageInfo(fake.xen(), frame).address;
const typeInfo = (frame: number): bigint => pageInfo(fake.xen(), frame).u64('u.inuse.type_info');
const setType = (frame: number, value: bigint): void => {
  fake.set('page_info', descriptor(frame), 'u.inuse.type_info', value);
};
const newFrame = (): number => Number(fake.alloc(4096, 4096) - constant('DIRECTMAP_VIRT_START')) / 4096;
const PRESENT = 1n;

/** A validated table, referenced by the given entries of tables one level up. */
function newTable(
  level: number,
  parents: readonly (readonly [table: number, entry: number])[],
  pinned = false,
): number {
  const frame = newFrame();
  const flags = constant('PGT_validated') | (pinned ? constant('PGT_pinned') : 0n);
  setType(frame, constant(`PGT_l${level}_page_table`) | flags | BigInt(parents.length + (pinned ? 1 : 0)));
  fake.set('page_info', descriptor(frame), 'count_info', BigInt(parents.length + (pinned ? 1 : 0) + 1));
  for (const [table, entry] of parents) {
    fake.put(constant('DIRECTMAP_VIRT_START') + BigInt(table * 4096 + 8 * entry), 8, (BigInt(frame) << 12n) | PRESENT);
  }
  return frame;
}

/** Has a CPU stand in Xen with these values on its stack. */
function dropThread(values: readonly bigint[]): void {
  fake.enterXen(0, '_get_page_type');
  for (const [n, value] of values.entries()) fake.put(fake.frame(0) - 0x100n + BigInt(8 * n), 8, value);
}

function plan(...steps: Step[]): Plan {
  const xen = fake.xen();
  return makePlan({ name: 'test', steps }, xen, readEntryFacts(xen));
}

const writes = ({ edits }: Plan): string[] =>
  edits
    .filter((edit) => edit.kind === 'memory')
    .map(({ address, after }) => `${address.toString(16)} ${Buffer.from(after).toString('hex')}`)
    .sort();

/** A guest with two tables of the third level, three of the second and six of the first. */
function newGuest(): { readonly top: number; readonly tables: readonly number[] } {
  const top = newTable(4, [], true);
  const third = [newTable(3, [[top, 0]]), newTable(3, [[top, 300]])];
  const second = [0, 1, 2].map((n) => newTable(2, [[third[n % 2]!, n]]));
  const first = [0, 1, 2, 3, 4, 5].map((n) => newTable(1, [[second[n % 3]!, n]], n % 2 === 0));
  return { top, tables: [...third, ...second, ...first] };
}

describe('page tables of dropped threads', () => {
  it.each([
    ['the address of its descriptor', (frame: number) => descriptor(frame)],
    ['its number', (frame: number) => BigInt(frame)],
    ['an entry that leads to it', (frame: number) => (BigInt(frame) << 12n) | 0x67n],
    ['its address in the direct map', (frame: number) => constant('DIRECTMAP_VIRT_START') + BigInt(frame * 4096 + 8)],
  ])('are found by %s on the stack', (_, value) => {
    const { tables } = newGuest();
    const frame = tables[4]!;
    setType(frame, typeInfo(frame) + 1n);
    dropThread([value(frame)]);
    expect(plan(pageTables).steps[0]?.findings).toEqual([
      `frame 0x${frame.toString(16)}, a level 2 table, had 2 references and has 1`,
    ]);
  });

  it('are left alone where no dropped thread leads', () => {
    const { tables } = newGuest();
    setType(tables[4]!, typeInfo(tables[4]!) + 1n);
    dropThread([]);
    expect(writes(plan(pageFrames, pageTables))).toEqual([]);
  });

  it('are counted in a capsule as they were on the box, also where the descriptor of the table at the top lies apart', () => {
    const top = newTable(4, []);
    fake.set('vcpu', fake.dom0.address, 'arch.guest_table.pfn', top);
    const DESCRIPTORS_PER_PAGE = 128;
    for (let n = 0; n < DESCRIPTORS_PER_PAGE; n++) newFrame();
    const third = newTable(3, [[top, 0]]);
    dropThread([descriptor(third)]);
    const recording = new RecordingView(fake);
    const replay = (): Plan => {
      const xen = fake.xen(recording);
      return makePlan({ name: 'test', steps: [pageTables] }, xen, readEntryFacts(xen));
    };
    const made = replay();
    recording.seal();
    expect(replay()).toEqual(made);
    expect(made.steps[0]?.findings).toEqual([]);
  });

  it('lose the reference of a vCPU that has another one at the top by now', () => {
    const { top } = newGuest();
    const [kernel, user] = [newTable(4, []), newTable(4, [], true)];
    fake.set('vcpu', fake.dom0.address, 'arch.guest_table.pfn', kernel);
    fake.set('vcpu', fake.dom0.address, 'arch.guest_table_user.pfn', user);
    for (const [frame, count] of [
      [top, 2n],
      [kernel, 1n],
      [user, 2n],
    ] as const) {
      setType(frame, (typeInfo(frame) & ~constant('PGT_count_mask')) | count);
      fake.set('page_info', descriptor(frame), 'count_info', count + 1n);
    }
    dropThread([top, kernel, user].map(descriptor));
    const { steps, edits } = plan(pageTables);
    expect(steps[0]?.findings).toEqual([`frame 0x${top.toString(16)}, a level 4 table, had 2 references and has 1`]);
    const at = (field: string): bigint =>
      descriptor(top) + BigInt(fake.profile.struct('page_info').field(field).offset);
    expect(edits.flatMap((edit) => (edit.kind === 'memory' ? [edit.address] : []))).toEqual(
      ['u.inuse.type_info', 'count_info'].map(at),
    );
  });

  it('lose the references that a validation had taken when it was dropped', () => {
    const { tables } = newGuest();
    const [, , second] = tables;
    setType(second!, constant('PGT_l2_page_table') | 1n);
    dropThread([descriptor(second!)]);
    const { steps } = plan(pageFrames, pageTables);
    expect(steps[0]?.findings).toEqual([`frame 0x${second!.toString(16)} was being validated`]);
    expect(steps[1]?.findings).toHaveLength(2);
  });

  it('are taken apart when they are left without a reference: what they map loses one of each kind', () => {
    const { tables } = newGuest();
    const [second, first] = [tables[2]!, tables[8]!];
    const [written, read] = [newFrame(), newFrame()];
    for (const [entry, frame] of [written, read].entries()) {
      setType(frame, constant('PGT_writable_page') | constant('PGT_validated') | 2n);
      fake.set('page_info', descriptor(frame), 'count_info', 3);
      const flags = frame === written ? 3n : 1n;
      const at = constant('DIRECTMAP_VIRT_START') + BigInt(first * 4096 + 8 * entry);
      fake.put(at, 8, (BigInt(frame) << 12n) | flags);
    }
    setType(second, constant('PGT_l2_page_table') | 1n);
    dropThread([descriptor(second)]);
    const { edits } = plan(pageFrames, pageTables);
    const left = (frame: number, field: string): number | undefined => {
      const address = fake.fieldAt('page_info', descriptor(frame), field);
      const edit = edits.findLast((one) => one.kind === 'memory' && one.address === address);
      return edit?.kind === 'memory' ? edit.after[0] : undefined;
    };
    expect([left(written, 'u.inuse.type_info'), left(written, 'count_info')]).toEqual([1, 2]);
    expect([left(read, 'u.inuse.type_info'), left(read, 'count_info')]).toEqual([undefined, 2]);
    expect(left(first, 'u.inuse.type_info')).toBe(0);
  });

  it('keep a reference that is parked for their vCPU to give back', () => {
    const { tables } = newGuest();
    const frame = tables[3]!;
    setType(frame, typeInfo(frame) + 1n);
    fake.set('vcpu', fake.dom0.address, 'arch.old_guest_table', descriptor(frame));
    dropThread([descriptor(frame)]);
    expect(writes(plan(pageTables))).toEqual([]);
  });

  it('are not given back twice: a note of one that was given back is taken away', () => {
    const { tables } = newGuest();
    fake.set('vcpu', fake.dom0.address, 'arch.old_guest_table', descriptor(tables[3]!));
    dropThread([]);
    expect(plan(pageTables).edits.map((edit) => edit.kind === 'memory' && edit.address)).toEqual([
      fake.fieldAt('vcpu', fake.dom0.address, 'arch.old_guest_table'),
    ]);
  });

  const damage = fc.record({
    table: fc.nat({ max: 10 }),
    kind: fc.constantFrom('excess' as const, 'locked' as const, 'unvalidated' as const),
    inUse: fc.boolean(),
  });
  it('are repaired as a scan of all frames repairs them', () => {
    fc.assert(
      fc.property(fc.array(damage, { minLength: 1, maxLength: 3 }), (damages) => {
        fake = new FakeXen();
        const { top, tables } = newGuest();
        for (const { table, kind, inUse } of damages) {
          const frame = tables[table]!;
          if (inUse) fake.set('vcpu', fake.dom0.address, 'arch.guest_table', BigInt(top));
          if (kind === 'excess') setType(frame, typeInfo(frame) + 1n);
          if (kind === 'locked') setType(frame, (typeInfo(frame) | constant('PGT_locked')) + 1n);
          if (kind === 'unvalidated') setType(frame, (typeInfo(frame) & constant('PGT_type_mask')) | 1n);
        }
        dropThread(damages.map(({ table }) => descriptor(tables[table]!)));
        const touched = writes(plan(pageFrames, pageTables));
        expect(touched).toEqual(writes(plan(pageFramesBy('everywhere'), pageTablesBy('everywhere'))));
      }),
      { numRuns: 60 },
    );
  });
});
