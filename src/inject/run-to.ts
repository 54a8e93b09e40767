/** Letting the whole machine run until one of its CPUs is about to execute one of some places. */
import { isNinelivesError } from '../common/errors.js';
import type { Stop } from '../machine/stop.js';
import type { Control } from './control.js';

export interface Arrival {
  readonly cpu: number;
  readonly address: bigint;
}

/**
 * Runs all CPUs until one stands before one of `addresses`. `undefined`: none did within `limitMs` of host time, or the machine
 * stopped for another reason. Frozen afterwards; breakpoints that others set stay, and those of `addresses` are gone.
 */
export async function runToAny(
  control: Control,
  addresses: readonly bigint[],
  limitMs: number,
): Promise<Arrival | undefined> {
  const { machine } = control;
  await control.freeze();
  const own = addresses.filter((address) => !machine.breakpoints.has(address));
  await machine.setBreakpoints(own);
  try {
    await control.resume();
    const stop = await stopWithin(control, limitMs);
    if (stop?.kind !== 'breakpoint' || stop.address === undefined || !addresses.includes(stop.address))
      return undefined;
    return { cpu: stop.cpu, address: stop.address };
  } finally {
    await control.freeze();
    await machine.clearBreakpoints(own);
  }
}

async function stopWithin(control: Control, limitMs: number): Promise<Stop | undefined> {
  try {
    return await control.machine.waitForStop(Math.max(1, Math.round(limitMs)));
  } catch (error) {
    if (isNinelivesError(error, 'NL_TIMEOUT')) return undefined;
    throw error;
  }
}
