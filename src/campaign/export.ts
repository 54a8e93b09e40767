/** A campaign's records for other programs: one flat row a run, or a database. Pure, but for the database's module. */
import type { RunRecord } from './record.js';

type Cell = string | number | null;

/** The columns of a run, in the order of the table; docs/reference/campaign.md describes them. */
const COLUMNS: readonly {
  readonly name: string;
  readonly type: 'TEXT' | 'REAL' | 'INTEGER';
  of(record: RunRecord): Cell;
}[] = [
  { name: 'run', type: 'INTEGER', of: (r) => r.run },
  { name: 'variant', type: 'INTEGER', of: (r) => r.variant ?? null },
  { name: 'started_at', type: 'TEXT', of: (r) => r.startedAt },
  { name: 'took_ms', type: 'REAL', of: (r) => r.tookMs },
  { name: 'fault', type: 'TEXT', of: (r) => r.planned.fault },
  { name: 'fault_choice', type: 'TEXT', of: (r) => JSON.stringify(r.planned.faultChoice) },
  { name: 'trigger', type: 'TEXT', of: (r) => r.planned.trigger },
  { name: 'trigger_choice', type: 'TEXT', of: (r) => JSON.stringify(r.planned.triggerChoice) },
  { name: 'outcome', type: 'TEXT', of: (r) => r.outcome },
  { name: 'end', type: 'TEXT', of: (r) => r.end ?? null },
  { name: 'point', type: 'TEXT', of: (r) => r.point?.at ?? null },
  { name: 'point_cpu', type: 'INTEGER', of: (r) => r.point?.cpu ?? null },
  { name: 'point_vcpu', type: 'TEXT', of: (r) => r.point?.vcpu ?? null },
  { name: 'hypercall', type: 'TEXT', of: (r) => r.point?.hypercall ?? null },
  { name: 'steps', type: 'INTEGER', of: (r) => r.point?.steps ?? null },
  { name: 'what', type: 'TEXT', of: (r) => r.point?.what ?? null },
  { name: 'failure', type: 'TEXT', of: (r) => r.failures[0]?.summary ?? null },
  { name: 'failure_kind', type: 'TEXT', of: (r) => r.failures[0]?.kind ?? null },
  { name: 'failures', type: 'INTEGER', of: (r) => r.failures.length },
  { name: 'detection_ms', type: 'REAL', of: (r) => r.detectionMs ?? null },
  { name: 'latency_ms', type: 'REAL', of: (r) => r.latencyMs ?? null },
  { name: 'outage_ms', type: 'REAL', of: (r) => r.outageMs ?? null },
  { name: 'outside_outage_ms', type: 'REAL', of: (r) => r.outsideOutageMs ?? null },
  { name: 'host_waited', type: 'REAL', of: (r) => r.hostWaited ?? null },
  { name: 'vms_affected', type: 'TEXT', of: (r) => affected(r) },
  { name: 'new_vm', type: 'INTEGER', of: (r) => (r.newVm === undefined ? null : Number(r.newVm.ok)) },
  { name: 'cause', type: 'TEXT', of: (r) => r.cause ?? null },
  { name: 'error_code', type: 'TEXT', of: (r) => r.errorCode ?? null },
];

const affected = (record: RunRecord): string =>
  record.vms
    .filter((vm) => !(vm.alive && vm.intact))
    .map((vm) => vm.name)
    .join(' ');

/** RFC 4180, with a line of column names; lines end in CR LF. */
export function toCsv(records: readonly RunRecord[]): string {
  const rows = [COLUMNS.map(({ name }) => name), ...records.map((record) => COLUMNS.map(({ of }) => of(record)))];
  return rows.map((row) => `${row.map(csvCell).join(',')}\r\n`).join('');
}

function csvCell(cell: Cell): string {
  const text = cell === null ? '' : String(cell);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The records as they are in the run log. */
export const toJson = (records: readonly RunRecord[]): string => `${JSON.stringify(records, null, 2)}\n`;

/** An SQLite database with the tables `runs` (the columns of the CSV), `vms` and `phases`. */
export async function toSqlite(records: readonly RunRecord[]): Promise<Uint8Array> {
  const { default: initSqlJs } = await import('sql.js');
  const sql = await initSqlJs();
  const database = new sql.Database();
  try {
    const columns = COLUMNS.map(({ name, type }) => `"${name}" ${type}`).join(', ');
    database.run(`CREATE TABLE runs (${columns})`);
    database.run(
      'CREATE TABLE vms (run INTEGER, variant INTEGER, name TEXT, kind TEXT, work TEXT, alive INTEGER, intact INTEGER, reason TEXT)',
    );
    database.run('CREATE TABLE phases (run INTEGER, variant INTEGER, phase TEXT, ms REAL)');
    database.run('BEGIN');
    const places = COLUMNS.map(() => '?').join(', ');
    for (const record of records) {
      const { run, variant = null, vms, phases = {} } = record;
      database.run(
        `INSERT INTO runs VALUES (${places})`,
        COLUMNS.map(({ of }) => of(record)),
      );
      for (const { name, kind, work, alive, intact, reason = null } of vms)
        database.run('INSERT INTO vms VALUES (?, ?, ?, ?, ?, ?, ?, ?)', [
          ...[run, variant, name, kind, work],
          ...[Number(alive), Number(intact), reason],
        ]);
      for (const [phase, ms] of Object.entries(phases))
        database.run('INSERT INTO phases VALUES (?, ?, ?, ?)', [run, variant, phase, ms]);
    }
    database.run('COMMIT');
    return database.export();
  } finally {
    database.close();
  }
}
