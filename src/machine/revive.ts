/**
 * A machine that asked for a reset (a triple fault) and was kept as it was (`-action reboot=shutdown,shutdown=pause`) stands in a
 * run state from which QEMU lets it go on only after the reset. A migration ends that run state, whatever it was: the machine's
 * devices are written to nowhere, its RAM not at all, and afterwards it is one that was migrated away and may be resumed.
 */
import { asRecord, type Qmp } from './qmp.js';
import { awaitMigration, ignoreSharedRam } from './snapshot.js';

/**
 * @returns whether it can go on now. Not with drives that are written to: QEMU gives them away with the migration.
 * @throws NL_QMP_ERROR, NL_TIMEOUT
 */
export async function revive(qmp: Qmp): Promise<boolean> {
  const drives = (await qmp.execute('query-block')) as unknown[];
  if (drives.some((drive) => asRecord(asRecord(drive).inserted).ro === false)) return false;
  await ignoreSharedRam(qmp);
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
  await qmp.execute('migrate', { uri: 'exec:cat > /dev/null' });
  await awaitMigration(qmp, 'making the machine resumable');
  return true;
}
