/** A QEMU that we start ourselves, and may start again from a snapshot with the same RAM, folder and sockets. */
import { closeSync } from 'node:fs';
import { isNinelivesError } from '../common/errors.js';
import { type Link, openLink } from './link.js';
import { checkBinary, type Home, makeHome, removeHome, startQemu, stderrTail } from './process.js';
import type { Qmp } from './qmp.js';
import type { SnapshotIdentity } from './snapshot.js';
import { argumentsHash, gdbPathIn, type MachineSpec, memoryBytes, type Origin, qmpPathIn } from './spec.js';

export class OwnedQemu {
  readonly spec: MachineSpec;
  readonly home: Home;
  /** The RAM file; belongs to the `MappedRam` made of it. */
  readonly ramFd: number;
  readonly #version: string;

  private constructor(spec: MachineSpec, home: Home, ramFd: number, version: string) {
    this.spec = spec;
    this.home = home;
    this.ramFd = ramFd;
    this.#version = version;
  }

  /** Prepares folder and RAM; starts nothing. @throws NL_NO_SPACE, NL_ADDRESS_IN_USE, NL_QEMU_MISSING, NL_QEMU_TOO_OLD */
  static async create(spec: MachineSpec): Promise<OwnedQemu> {
    const version = await checkBinary(spec.binary);
    const { home, ramFd } = await makeHome(spec);
    return new OwnedQemu(spec, home, ramFd, version);
  }

  get identity(): SnapshotIdentity {
    return identityOf(this.spec, this.#version);
  }

  /** Starts QEMU and connects. `prepare` runs while the machine has not executed anything. */
  async launch(origin: Origin, prepare: (qmp: Qmp, pid: number) => Promise<void>): Promise<Link> {
    const child = await startQemu(this.spec, this.home, this.ramFd, origin);
    const { dir } = this.home;
    try {
      return await openLink(
        { qmpPath: qmpPathIn(dir), gdb: gdbPathIn(dir), stderrTail: () => stderrTail(dir) },
        prepare,
      );
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  /** Removes what `create` made, when no machine came of it. */
  discard(): void {
    removeHome(this.home);
    try {
      closeSync(this.ramFd);
    } catch (error) {
      if (isNinelivesError(error)) throw error; // EBADF: the RAM object that owned it has closed it.
    }
  }

  /** Removes the folder; the RAM goes with its last user. */
  remove(): void {
    removeHome(this.home);
  }
}

/** What a machine of this spec is, for comparing it with a snapshot. */
export function identityOf(spec: MachineSpec, qemuVersion: string): SnapshotIdentity {
  return {
    qemu: qemuVersion,
    cpus: spec.cpus,
    memoryBytes: memoryBytes(spec),
    argumentsHash: argumentsHash(spec),
    imageHash: spec.imageHash ?? '',
  };
}
