/** What a machine is made of, and the QEMU command line that makes it. Pure. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';

/**
 * `ours`: QEMU is killed by the kernel when we end, however we end. `detached`: QEMU outlives us; `Machine.attach` finds it again
 * by its QMP socket.
 */
export type Lifetime = 'ours' | 'detached';

export interface MachineSpec {
  /** Default "qemu-system-x86_64". */
  readonly binary?: string;
  /** Default "tcg". */
  readonly accel?: 'tcg' | 'kvm';
  /** Default "pc". */
  readonly machineType?: 'pc' | 'q35';
  readonly cpus: number;
  readonly memoryMiB: number;
  /** Further QEMU options: CPU model, kernel, drives, serial lines. Not: machine, memory, QMP, gdb, display, lifetime. */
  readonly args: readonly string[];
  /**
   * Character devices to be made, one socket `<runtimeDir>/<name>.sock` and one log `<runtimeDir>/<name>.log` each; refer to
   * them in `args` as `chardev:<name>` or `chardev=<name>`.
   */
  readonly consoles?: readonly string[];
  /**
   * Network backends to be made, one socket `<runtimeDir>/<name>.sock` each, on which QEMU takes and gives Ethernet frames
   * with their length before them; refer to them in `args` as `netdev=<name>`.
   */
  readonly networks?: readonly string[];
  readonly lifetime: Lifetime;
  /** Folder for sockets and logs, made if missing. Default: a new private one, removed with the machine. */
  readonly runtimeDir?: string;
  /** Identifies the contents of kernel and images; a snapshot of other images is refused. */
  readonly imageHash?: string;
}

export const qmpPathIn = (dir: string): string => join(dir, 'qmp.sock');
export const gdbPathIn = (dir: string): string => join(dir, 'gdb.sock');
export const consolePathIn = (dir: string, name: string): string => join(dir, `${name}.sock`);
export const consoleLogIn = (dir: string, name: string): string => join(dir, `${name}.log`);
export const networkPathIn = consolePathIn;
export const stderrPathIn = (dir: string): string => join(dir, 'qemu.log');

export const memoryBytes = (spec: MachineSpec): number => spec.memoryMiB * 2 ** 20;

/** How the machine comes to life: from reset, or waiting for a device state to be loaded. */
export type Origin = 'reset' | 'incoming';

/** The options for QEMU. `dir`: the runtime folder; `ramPath`: the RAM file. */
export function qemuArguments(spec: MachineSpec, dir: string, ramPath: string, origin: Origin): string[] {
  const consoles = (spec.consoles ?? []).flatMap((name) => [
    '-chardev',
    `socket,id=${name},path=${escapeComma(consolePathIn(dir, name))},server=on,wait=off,` +
      `logfile=${escapeComma(consoleLogIn(dir, name))},logappend=on`,
  ]);
  const networks = (spec.networks ?? []).flatMap((name) => [
    '-netdev',
    `stream,id=${name},server=on,addr.type=unix,addr.path=${escapeComma(networkPathIn(dir, name))}`,
  ]);
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-machine', `${spec.machineType ?? 'pc'},memory-backend=ram0`, '-accel', spec.accel ?? 'tcg'],
    ...['-smp', String(spec.cpus), '-m', `${spec.memoryMiB}M`],
    ...['-object', `memory-backend-file,id=ram0,size=${spec.memoryMiB}M,mem-path=${escapeComma(ramPath)},share=on`],
    ...['-qmp', `unix:${escapeComma(qmpPathIn(dir))},server=on,wait=off`],
    ...['-chardev', `socket,id=gdb,path=${escapeComma(gdbPathIn(dir))},server=on,wait=off`, '-gdb', 'chardev:gdb'],
    // A dying guest is kept for inspection instead of being reset or ended.
    ...['-action', 'reboot=shutdown,shutdown=pause,panic=pause', '-S'],
    ...(origin === 'incoming' ? ['-incoming', 'defer'] : []),
    ...consoles,
    ...networks,
    ...spec.args,
  ];
}

/** A hash of all that makes the guest-visible machine; two specs with the same hash can share a snapshot. */
export function argumentsHash(spec: MachineSpec): string {
  const parts = [
    spec.machineType ?? 'pc',
    spec.accel ?? 'tcg',
    spec.cpus,
    spec.memoryMiB,
    spec.consoles ?? [],
    spec.args,
    ...(spec.networks ?? []),
  ];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

/** QEMU's option parser takes a doubled comma for a comma. */
const escapeComma = (text: string): string => text.replaceAll(',', ',,');
