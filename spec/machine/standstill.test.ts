import { describe, expect, it } from 'vitest';
import { Standstill } from '../../src/machine/standstill.js';

/** Events `at` milliseconds from now, by the clock of both sides. */
class Machine {
  readonly standstill = new Standstill();
  readonly begin = performance.now();

  event(name: string, at: number, clockError = 0): void {
    const atMs = this.begin + at;
    this.standstill.note({ name, data: {}, atMs, happenedMs: performance.timeOrigin + atMs + clockError });
  }

  async times(): Promise<number[] | undefined> {
    const last = await this.standstill.last();
    return last && [last.stoppedMs - this.begin, last.resumedMs - this.begin].map(Math.round);
  }
}

describe('Standstill', () => {
  it('lasts from the stop to the resumption that was asked for', async () => {
    const machine = new Machine();
    machine.event('STOP', 10);
    machine.standstill.told();
    machine.standstill.toldWhole();
    machine.event('RESUME', 17);
    expect(await machine.times()).toEqual([10, 17]);
  });

  it('counts runs of single CPUs as standing still', async () => {
    const machine = new Machine();
    machine.event('STOP', 10);
    machine.standstill.told();
    machine.event('RESUME', 12);
    machine.event('STOP', 13);
    machine.standstill.told();
    machine.standstill.toldWhole();
    machine.event('RESUME', 17);
    expect(await machine.times()).toEqual([10, 17]);
  });

  it('waits for an event that is still on its way', async () => {
    const machine = new Machine();
    machine.event('STOP', 10);
    machine.standstill.told();
    machine.standstill.toldWhole();
    const times = machine.times();
    machine.event('RESUME', 17);
    expect(await times).toEqual([10, 17]);
  });

  it('is not known where QEMU does not tell, or by a clock that was set', async () => {
    const silent = new Machine();
    silent.event('STOP', 10);
    silent.standstill.told();
    silent.standstill.toldWhole();
    expect(await silent.times()).toBeUndefined();
    const wrong = new Machine();
    wrong.event('STOP', 10, 3_600_000);
    wrong.standstill.told();
    wrong.standstill.toldWhole();
    wrong.event('RESUME', 17);
    expect(await wrong.times()).toBeUndefined();
  });
});
