/** The reports of the unikernel: lines of the form that `reports.ts` reads, in two pages that take turns. */
import { type Assembler, R } from './assembler.js';
import { PAGE, REPORTS, V } from './layout.js';
import { mixStart } from './mix.js';
import { at, CHECK_ROOM, ret } from './runtime.js';

/** What the guest is at, for the reader of a report that stays the same. */
export const STAGES = ['start', 'xenstore', 'backend', 'write', 'read', 'work', 'rest'] as const;
export type Stage = (typeof STAGES)[number];
const STAGE_ROOM = 8;

/** Digits of a number in the report: it is written in place, so it always takes the same room. */
export const DIGITS = 10;
const PLACE = '0'.repeat(DIGITS);

/** The line at its begin, and where in it are the parts that change. */
export interface ReportLine {
  readonly text: string;
  readonly n: number;
  readonly digest: number;
  readonly errors: number;
  readonly note: number;
  readonly stage: number;
  readonly end: number;
}

/** Dots only keep room. */
export function reportLine(magic: string, name: string, work: string): ReportLine {
  const note = '-'.padEnd(CHECK_ROOM, '.');
  const stage = 'start'.padEnd(STAGE_ROOM, '.');
  const parts = [`n=${PLACE}`, `digest=${mixStart(name)}`, `errors=${PLACE}`, `note=${note}`, `work=${work}`];
  const text = `${magic} ${name} pv ${parts.join(' ')} stage=${stage} end=${PLACE}\n`;
  const after = (mark: string): number => text.indexOf(` ${mark}=`) + mark.length + 2;
  return {
    text,
    n: after('n'),
    digest: after('digest'),
    errors: after('errors'),
    note: after('note'),
    stage: after('stage'),
    end: after('end'),
  };
}

/** Says in both reports what the guest is at. Changes nothing else. */
export function stage(code: Assembler, line: ReportLine, name: Stage): void {
  const text = Buffer.from(name.padEnd(STAGE_ROOM, '.'));
  for (const page of [REPORTS, REPORTS + PAGE])
    for (let i = 0; i < STAGE_ROOM; i += 4) code.storeImmediate(4, at(page + line.stage + i), text.readInt32LE(i));
}

/** Writes the report whose turn it is. */
export function report(code: Assembler): void {
  code.move(4, R.rbx, R.r12);
  code.aluImmediate('and', 4, R.rbx, 1);
  code.shift('shl', 4, R.rbx, 12);
  code.aluImmediate('add', 4, R.rbx, REPORTS);
  code.call('report');
}

export function reporting(code: Assembler, line: ReportLine): void {
  writing(code, line);

  // A decimal number of fixed length: eax, its last digit at rdi.
  code.label('decimal');
  code.set(R.rcx, 10);
  code.set(R.rsi, DIGITS);
  code.label('digit');
  code.set(R.rdx, 0);
  code.divide(R.rcx);
  code.aluImmediate('add', 4, R.rdx, 0x30);
  code.store(1, { base: R.rdi }, R.rdx);
  code.aluImmediate('sub', 8, R.rdi, 1);
  code.aluImmediate('sub', 4, R.rsi, 1);
  code.jumpIf('jnz', 'digit');
  ret(code);

  // After a failure that leaves nothing to go on with: both reports say so, and the guest blocks for good.
  code.label('dead');
  for (const page of [REPORTS, REPORTS + PAGE]) {
    code.set(R.rbx, page);
    code.call('report');
  }
  code.label('for good');
  code.call('block');
  code.jump('for good');

  code.label('hex');
  code.bytes(...Buffer.from('0123456789abcdef'));
  code.label('line');
  code.bytes(...Buffer.from(line.text));
}

/** Into the page at rbx; `end` last, so that a line which a freeze cut off does not carry the number twice. */
function writing(code: Assembler, line: ReportLine): void {
  code.label('report');
  number(code, R.r12, line.n);
  code.addressInto(R.rdi, { base: R.rbx, disp: line.digest });
  code.set(R.r8, 0);
  code.label('word');
  code.load(4, R.rax, { index: R.r8, scale: 4, disp: V.state });
  code.set(R.rcx, 8);
  code.label('nibble');
  code.shift('rol', 4, R.rax, 4);
  code.move(4, R.rdx, R.rax);
  code.aluImmediate('and', 4, R.rdx, 15);
  code.setAddress(R.r9, 'hex');
  code.loadByte(R.rdx, { base: R.r9, index: R.rdx });
  code.store(1, { base: R.rdi }, R.rdx);
  code.aluImmediate('add', 8, R.rdi, 1);
  code.aluImmediate('sub', 4, R.rcx, 1);
  code.jumpIf('jnz', 'nibble');
  code.aluImmediate('add', 4, R.r8, 1);
  code.aluImmediate('cmp', 4, R.r8, 8);
  code.jumpIf('jb', 'word');
  number(code, R.r13, line.errors);
  code.aluImmediate('cmp', 4, R.r13, 0);
  code.jumpIf('jz', 'no failure');
  code.load(8, R.rsi, at(V.failedCheck));
  code.addressInto(R.rdi, { base: R.rbx, disp: line.note });
  code.set(R.rcx, CHECK_ROOM);
  code.bytes(0xf3, 0xa4); // rep movsb
  code.label('no failure');
  number(code, R.r12, line.end);
  ret(code);
}

function number(code: Assembler, value: typeof R.r12 | typeof R.r13, place: number): void {
  code.move(4, R.rax, value);
  code.addressInto(R.rdi, { base: R.rbx, disp: place + DIGITS - 1 });
  code.call('decimal');
}
