/** Whether a running box can be guarded: its sockets, its memory, its Xen. The box stands still for a moment. */
import { isNinelivesError } from '../common/errors.js';
import { findTarget } from '../guard/target.js';
import { Machine } from '../machine/machine.js';
import { type Check, failed, ok, warning } from './check.js';

export interface BoxAddress {
  readonly qmpPath: string;
  readonly gdb?: string;
}

/** Stops at the first thing without which the next cannot be looked at. */
export async function checkBox(address: BoxAddress, profileFolder: string | undefined): Promise<Check[]> {
  let machine: Machine;
  try {
    machine = await Machine.attach(address);
  } catch (error) {
    return [failedBy('link to QEMU', error)];
  }
  await using attached = machine;
  const checks: Check[] = [
    ok('QMP', address.qmpPath),
    ok('debugger stub', 'free'),
    ok('state', attached.wasRunning ? 'running' : 'stopped'),
    attached.ram.kind === 'mapped'
      ? ok('RAM', 'shared, mapped without a copy')
      : warning('RAM', "not shared; reached through QEMU's process, which is slower", SHARED_RAM_FIX),
  ];
  try {
    const { xen } = await findTarget(attached, profileFolder);
    checks.push(ok('Xen', xen.profile.version), ok('profile', `${xen.profile.buildId} fits`));
  } catch (error) {
    checks.push(failedBy('Xen', error));
  }
  return checks;
}

const SHARED_RAM_FIX = 'start QEMU with -object memory-backend-file,id=ram0,size=...,mem-path=/dev/shm/...,share=on';

function failedBy(name: string, error: unknown): Check {
  if (!isNinelivesError(error)) throw error;
  return failed(name, `${error.code}: ${error.message}`, error.fix ?? `see docs/reference/errors.md, ${error.code}`);
}
