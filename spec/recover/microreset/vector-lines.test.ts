import { beforeEach, describe, expect, it } from 'vitest';
import { vectorLines } from '../../../src/recover/microreset/vector-lines.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const LINES = 16;
const NONE = -(2 ** 31);
let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  const line = fake.newLine(10, LINES);
  const mask = fake.alloc(32);
  fake.put(mask, 8, 0b10n);
  fake.set('irq_desc', line, 'arch.vector', 0x68);
  fake.set('irq_desc', line, 'arch.cpu_mask', mask);
  entry(1, 0x68, 10);
  entry(1, 0x20, ~0);
});

function entry(cpu: number, vector: number, value: number): void {
  fake.put(fake.perCpu('vector_irq', cpu) + BigInt(4 * vector), 4, value);
}

describe('vector-lines', () => {
  it('leaves lines, former lines and none alone', () => {
    expect(planWith(fake, vectorLines).writes).toEqual([]);
  });

  it('takes the line that has the vector on that CPU for what cannot be, or none', () => {
    // A pointer, over two entries.
    fake.put(fake.perCpu('vector_irq', 1) + 4n * 0x68n, 8, 0xffff_8302_3843_7ef8n);
    entry(0, 0x68, LINES);
    const { after, findings } = planWith(fake, vectorLines);
    expect(findings).toEqual([
      'vector 104 of CPU 0 is that of no line',
      'vector 104 of CPU 1 is that of IRQ 10',
      'vector 105 of CPU 1 is that of no line',
    ]);
    const at = (cpu: number, vector: number): number => after.memory.i32(after.perCpu('vector_irq', cpu), 4 * vector);
    expect([at(0, 0x68), at(1, 0x68), at(1, 0x69), at(1, 0x20)]).toEqual([NONE, 10, NONE, ~0]);
  });
});
