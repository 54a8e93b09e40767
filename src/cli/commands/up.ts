/** `ninelives up`: boots a box and leaves it running. */
import { join } from 'node:path';
import { EXIT } from '../../common/errors.js';
import { duration } from '../../report/style.js';
import { type Box, openBox } from '../../testbed/box.js';
import { NAME_OPTION, NEW_BOX_OPTIONS, nameOf, newBoxSpec } from '../box.js';
import { type BoxRecord, claimBox, forgetBox, recordBox } from '../boxes.js';
import type { Command } from '../command.js';

export const up: Command = {
  name: 'up',
  positional: [],
  summary: 'boot a box (Xen, PrivVM, three AppVMs) and leave it running',
  options: [NAME_OPTION, ...NEW_BOX_OPTIONS, { name: 'renew', summary: 'boot anew instead of using the snapshot' }],
  examples: ['ninelives up', 'ninelives up --name big --cpus 8 --memory 8G'],
  async run({ typed, terminal, json, print, printJson, paint, signal }) {
    const spec = newBoxSpec(typed);
    const runtimeDir = claimBox(nameOf(typed));
    let record: BoxRecord;
    try {
      const opening = openBox(spec, terminal, {
        lifetime: 'detached',
        runtimeDir,
        snapshot: typed.given('renew') ? 'renew' : 'use',
        signal,
      });
      await using box = await opening;
      record = recordOf(box);
      recordBox(record);
      terminal.done();
      if (!json) print([`${paint.green('✓')} box "${spec.name}" is up after ${duration(box.origin.tookMs)}`]);
    } catch (error) {
      forgetBox(spec.name);
      throw error;
    }
    if (json) printJson(record);
    else print(reachLines(record));
    return EXIT.ok;
  },
};

export function recordOf({ spec, files, machine, runtimeDir, consolePath }: Box): BoxRecord {
  const { name, cpus, memoryMiB, accel, guests } = spec;
  return {
    format: 1,
    name,
    pid: machine.pid,
    qmp: join(runtimeDir, 'qmp.sock'),
    console: consolePath,
    startedAt: new Date().toISOString(),
    xenVersion: files.xenVersion,
    cpus,
    memoryMiB,
    accel,
    vms: [{ name: 'dom0', kind: 'dom0' }, ...guests.map((guest) => ({ name: guest.name, kind: guest.kind }))],
    magic: files.magic,
  };
}

export function reachLines(record: BoxRecord): string[] {
  const option = record.name === 'default' ? '' : ` --name ${record.name}`;
  return [
    `  Xen ${record.xenVersion}, ${record.cpus} CPUs, ${record.memoryMiB} MiB, process ${record.pid}`,
    `  console  ${record.console.replace(/\.sock$/, '.log')}`,
    `           socat - UNIX-CONNECT:${record.console}  (Xen and PrivVM, to type into)`,
    `  QMP      ${record.qmp}`,
    `  next     ninelives status${option} | guard${option} | inject${option} | inspect${option} | down${option}`,
  ];
}
