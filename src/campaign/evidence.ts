/** What is kept of a trial that did not go well: the console, and what every CPU was doing at the end. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Target } from '../guard/target.js';
import type { Box } from '../testbed/box.js';
import { readSituation } from '../xen/cpus.js';
import { allVcpus, listDomains } from '../xen/domains.js';
import { heapLocks, isHeld, lockName, staticLocks } from '../xen/locks.js';

const CONSOLE_LINES = 120;

/** Writes `end.txt` to `dir`. The box stands still afterwards. */
export async function keepEvidence(dir: string, box: Box, target: Target): Promise<void> {
  await box.machine.freeze();
  const view = await box.machine.capture();
  const xen = target.at(view);
  const domains = listDomains(xen);
  const lines: string[] = [];
  for (const state of readSituation(xen, target.facts, domains).cpus) {
    const { inService, requested } = view.lapic(state.cpu);
    const trace = state.backtrace.map((entry) => entry.text).join(' <- ');
    lines.push(`CPU ${state.cpu} ${state.where} ${state.current.name} (loaded ${state.loaded.name}) ${trace}`);
    lines.push(`      in service [${inService.join(' ')}] requested [${requested.join(' ')}]`);
  }
  for (const { name, object, domain } of allVcpus(domains)) {
    if (domain.kind === 'idle') continue;
    const flags = `pause_flags ${object.u64('pause_flags')} pause_count ${object.num('pause_count')}/${domain.object.num('pause_count')}`;
    const pending = xen.memory.u8(object.u64('vcpu_info'));
    lines.push(
      `${name} CPU ${object.num('processor')} runstate ${object.num('runstate.state')} ${flags} upcall ${pending}`,
    );
  }
  for (const lock of [...staticLocks(xen), ...heapLocks(xen, domains)]) {
    if (isHeld(xen, lock)) lines.push(`held: ${lockName(lock)}`);
  }
  lines.push('', 'console:', box.consoleTail(CONSOLE_LINES));
  writeFileSync(join(dir, 'end.txt'), `${lines.join('\n')}\n`);
}
