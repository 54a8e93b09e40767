/**
 * The unikernel: a PV guest of one page of code, for the "new VM" that a recovered hypervisor has to be able to create. It is at
 * work milliseconds after Xen has started it, so what its creation takes is the toolstack's and Xen's own work. Like the big
 * guests it computes a chain that the supervisor can check (`mix.ts`), and reports into pages of its own.
 *
 * Each step crosses the hypervisor in ways that a broken one gets wrong: the page that carries the state is unmapped and mapped
 * again, the CPU is given away, a timer is set, and the guest blocks until that timer's event has been *delivered*.
 *
 * Interface: Xen 4.17, xen/include/public (xen.h, arch-x86/xen.h, arch-x86/xen-x86_64.h, event_channel.h, sched.h).
 */
import { Assembler, R } from './assembler.js';
import { pvElf } from './elf.js';
import { FACTOR, mixStart, STIR_ROTATION, TAKE_ROTATION, WORDS, wordsOf } from './mix.js';

export interface UnikernelOptions {
  readonly name: string;
  /** Begin of the reports. */
  readonly magic: string;
  /** Rest between two steps, in milliseconds. */
  readonly restMs: number;
}

const PAGE = 4096;
/** Pages, in this order: code and constants; hypercall entries; shared info; the work's page; two reports; variables; stack. */
const CODE = 0x10000;
const HYPERCALLS = CODE + PAGE;
const SHARED = HYPERCALLS + PAGE;
const WORK = SHARED + PAGE;
const REPORTS = WORK + PAGE;
const VARIABLES = REPORTS + 2 * PAGE;
const STACK = VARIABLES + PAGE;
const END = STACK + PAGE;

/** Variables. */
const STATE = VARIABLES;
const FIRED = VARIABLES + 64;
const WORK_ENTRY = VARIABLES + 72;
const BIND_VIRQ = VARIABLES + 80;

const HYPERCALL = {
  setCallbacks: 4,
  updateVaMapping: 14,
  setTimerOp: 15,
  schedOp: 29,
  eventChannelOp: 32,
} as const;
const EVTCHNOP_BIND_VIRQ = 1;
const SCHEDOP_YIELD = 0;
const SCHEDOP_BLOCK = 1;
/** Flush this one translation on this CPU. */
const UVMF_INVLPG = 2;
/** Present, writable, user, accessed, dirty: Xen runs PV kernels in ring 3. */
const PTE = 0x67;

const START_INFO = { sharedInfo: 40, mfnList: 104 } as const;
/** In `struct shared_info`; the first vCPU's `vcpu_info` is its begin, that one's time record is at 32. */
const SHARED_INFO = {
  upcallPending: 0,
  upcallMask: 1,
  pendingSelector: 8,
  timeVersion: 32,
  tscTimestamp: 40,
  systemTime: 48,
  tscToSystemMul: 56,
  tscShift: 60,
  eventPending: 2048,
  eventMask: 2560,
} as const;

const at = (disp: number): { readonly disp: number } => ({ disp });

/** The guest's kernel, an ELF file. */
export function unikernel({ name, magic, restMs }: UnikernelOptions): Buffer {
  const line = reportLine(magic, name);
  const code = new Assembler(CODE);
  start(code, line);
  loop(code, line, restMs);
  handlers(code);
  constants(code, line, mixStart(name));
  const content = code.finish();
  if (content.length > PAGE) throw new RangeError('the unikernel is longer than a page');
  return pvElf({ base: CODE, content, memorySize: END - CODE, entry: CODE, hypercallPage: HYPERCALLS });
}

/** Digits of a number in the report: it is written in place, so it always takes the same room. */
const DIGITS = 10;
const PLACE = '0'.repeat(DIGITS);

interface ReportLine {
  readonly text: string;
  readonly n: number;
  readonly digest: number;
  readonly errors: number;
  readonly note: number;
  readonly end: number;
}

/** A line of the form that `reports.ts` reads. Dots after the note only keep its room. */
function reportLine(magic: string, name: string): ReportLine {
  const text = `${magic} ${name} pv n=${PLACE} digest=${mixStart(name)} errors=${PLACE} note=-........ work=mix end=${PLACE}\n`;
  const after = (mark: string): number => text.indexOf(` ${mark}=`) + mark.length + 2;
  return {
    text,
    n: after('n'),
    digest: after('digest'),
    errors: after('errors'),
    note: after('note'),
    end: after('end'),
  };
}

/** Throughout: r12 is the number of the step, r13 that of the failed hypercalls. */
function start(code: Assembler, line: ReportLine): void {
  code.bytes(0xfc); // cld
  code.set(R.rsp, END);
  code.move(8, R.rbx, R.rsi); // start_info
  code.set(R.r12, 0);
  code.set(R.r13, 0);

  code.set(R.rdi, SHARED);
  code.load(8, R.rsi, { base: R.rbx, disp: START_INFO.sharedInfo });
  code.aluImmediate('or', 8, R.rsi, PTE);
  code.set(R.rdx, UVMF_INVLPG);
  hypercall(code, HYPERCALL.updateVaMapping);
  // Events are let in only while the guest blocks, which also keeps the handler from ever meeting itself.
  code.storeImmediate(1, at(SHARED + SHARED_INFO.upcallMask), 1);

  code.setAddress(R.rdi, 'upcall');
  code.setAddress(R.rsi, 'failsafe');
  code.set(R.rdx, 0);
  hypercall(code, HYPERCALL.setCallbacks);

  // The zeros at BIND_VIRQ ask for the timer's virtual interrupt on vCPU 0; Xen puts the port behind them.
  code.set(R.rdi, EVTCHNOP_BIND_VIRQ);
  code.set(R.rsi, BIND_VIRQ);
  hypercall(code, HYPERCALL.eventChannelOp);
  code.set(R.rax, 0);
  code.store(8, at(SHARED + SHARED_INFO.eventMask), R.rax);

  code.load(8, R.rax, { base: R.rbx, disp: START_INFO.mfnList });
  code.load(8, R.rax, { base: R.rax, disp: (WORK / PAGE) * 8 });
  code.shift('shl', 8, R.rax, 12);
  code.aluImmediate('or', 8, R.rax, PTE);
  code.store(8, at(WORK_ENTRY), R.rax);

  copy(code, 'state', STATE, 32);
  copy(code, 'line', REPORTS, line.text.length);
  copy(code, 'line', REPORTS + PAGE, line.text.length);
}

function loop(code: Assembler, line: ReportLine, restMs: number): void {
  code.label('step');
  code.aluImmediate('add', 4, R.r12, 1);
  stir(code);
  disturb(code);
  take(code);
  report(code, line);
  rest(code, restMs);
  code.jump('step');

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
  code.bytes(0xc3); // ret
}

const stateAt = (index: typeof R.rax | typeof R.rdx): Parameters<Assembler['load']>[2] => ({
  index,
  scale: 4,
  disp: STATE,
});
const workAt: Parameters<Assembler['load']>[2] = { index: R.rcx, scale: 4, disp: WORK };

function stir(code: Assembler): void {
  code.aluToMemory('xor', 4, at(STATE), R.r12);
  code.set(R.rcx, 0);
  code.label('stir');
  code.move(4, R.rax, R.rcx);
  code.aluImmediate('and', 4, R.rax, 7);
  code.addressInto(R.rdx, { base: R.rcx, disp: 1 });
  code.aluImmediate('and', 4, R.rdx, 7);
  code.load(4, R.rsi, stateAt(R.rax));
  code.alu('xor', 4, R.rsi, stateAt(R.rdx));
  stirWord(code, STIR_ROTATION);
  code.store(4, workAt, R.rsi);
  nextWord(code, 'stir');
}

function take(code: Assembler): void {
  code.set(R.rcx, 0);
  code.label('take');
  code.move(4, R.rax, R.rcx);
  code.aluImmediate('and', 4, R.rax, 7);
  code.load(4, R.rsi, stateAt(R.rax));
  code.alu('xor', 4, R.rsi, workAt);
  stirWord(code, TAKE_ROTATION);
  nextWord(code, 'take');
}

function stirWord(code: Assembler, rotation: number): void {
  code.multiplyImmediate(R.rsi, R.rsi, FACTOR);
  code.shift('rol', 4, R.rsi, rotation);
  code.alu('add', 4, R.rsi, R.rcx);
  code.store(4, stateAt(R.rax), R.rsi);
}

function nextWord(code: Assembler, label: string): void {
  code.aluImmediate('add', 4, R.rcx, 1);
  code.aluImmediate('cmp', 4, R.rcx, WORDS);
  code.jumpIf('jb', label);
}

/** While the state is out on the work's page: the page goes and comes back, and so does the CPU. */
function disturb(code: Assembler): void {
  for (const entry of ['none', 'work'] as const) {
    code.set(R.rdi, WORK);
    if (entry === 'none') code.set(R.rsi, 0);
    else code.load(8, R.rsi, at(WORK_ENTRY));
    code.set(R.rdx, UVMF_INVLPG);
    hypercall(code, HYPERCALL.updateVaMapping);
    code.set(R.rdi, SCHEDOP_YIELD);
    code.set(R.rsi, 0);
    hypercall(code, HYPERCALL.schedOp);
  }
}

/** Into the page whose turn it is; `end` last, so that a line which a freeze cut off does not carry the number twice. */
function report(code: Assembler, line: ReportLine): void {
  code.move(4, R.rbx, R.r12);
  code.aluImmediate('and', 4, R.rbx, 1);
  code.shift('shl', 4, R.rbx, 12);
  code.aluImmediate('add', 4, R.rbx, REPORTS);
  decimal(code, R.r12, line.n);
  code.addressInto(R.rdi, { base: R.rbx, disp: line.digest });
  code.set(R.r8, 0);
  code.label('word');
  code.load(4, R.rax, { index: R.r8, scale: 4, disp: STATE });
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
  decimal(code, R.r13, line.errors);
  code.aluImmediate('cmp', 4, R.r13, 0);
  code.jumpIf('jz', 'no failure');
  for (const [i, letter] of [...'hypercall'].entries())
    code.storeImmediate(1, { base: R.rbx, disp: line.note + i }, letter.charCodeAt(0));
  code.label('no failure');
  decimal(code, R.r12, line.end);
}

function decimal(code: Assembler, value: typeof R.r12 | typeof R.r13, place: number): void {
  code.move(4, R.rax, value);
  code.addressInto(R.rdi, { base: R.rbx, disp: place + DIGITS - 1 });
  code.call('decimal');
}

/** Blocks until the timer's event has come in. */
function rest(code: Assembler, restMs: number): void {
  code.storeImmediate(4, at(FIRED), 0);
  code.label('time');
  code.load(4, R.r8, at(SHARED + SHARED_INFO.timeVersion));
  code.move(4, R.rax, R.r8);
  code.aluImmediate('and', 4, R.rax, 1); // odd while Xen writes it
  code.jumpIf('jnz', 'time');
  code.bytes(0x0f, 0x31); // rdtsc
  code.shift('shl', 8, R.rdx, 32);
  code.alu('or', 8, R.rax, R.rdx);
  code.alu('sub', 8, R.rax, at(SHARED + SHARED_INFO.tscTimestamp));
  code.loadSignedByte(R.rcx, at(SHARED + SHARED_INFO.tscShift));
  code.aluImmediate('cmp', 4, R.rcx, 0);
  code.jumpIf('js', 'shift right');
  code.shiftByCl('shl', 8, R.rax);
  code.jump('scale');
  code.label('shift right');
  code.negate(R.rcx);
  code.shiftByCl('shr', 8, R.rax);
  code.label('scale');
  code.load(4, R.rdx, at(SHARED + SHARED_INFO.tscToSystemMul));
  code.multiplyWide(R.rdx);
  code.shiftRightPair(R.rax, R.rdx, 32);
  code.alu('add', 8, R.rax, at(SHARED + SHARED_INFO.systemTime));
  code.alu('cmp', 4, R.r8, at(SHARED + SHARED_INFO.timeVersion));
  code.jumpIf('jnz', 'time');
  code.aluImmediate('add', 8, R.rax, restMs * 1_000_000);
  code.move(8, R.rdi, R.rax);
  hypercall(code, HYPERCALL.setTimerOp);
  code.label('block');
  code.set(R.rdi, SCHEDOP_BLOCK);
  code.set(R.rsi, 0);
  hypercall(code, HYPERCALL.schedOp);
  code.load(4, R.rax, at(FIRED));
  code.aluImmediate('cmp', 4, R.rax, 0);
  code.jumpIf('jz', 'block');
}

/** Every hypercall that is made here has to give 0. */
function hypercall(code: Assembler, number: number): void {
  code.set(R.rax, HYPERCALLS + 32 * number);
  code.callRegister(R.rax);
  code.call('count failure');
}

function handlers(code: Assembler): void {
  code.label('count failure');
  code.aluImmediate('cmp', 8, R.rax, 0);
  code.jumpIf('jz', 'fine');
  code.aluImmediate('add', 4, R.r13, 1);
  code.label('fine');
  code.bytes(0xc3); // ret

  // Xen has pushed rcx and r11 above the frame that IRETQ takes, and holds back further events.
  code.label('upcall');
  code.push(R.rax);
  code.storeImmediate(1, at(SHARED + SHARED_INFO.upcallPending), 0);
  code.set(R.rax, 0);
  code.exchange(8, R.rax, at(SHARED + SHARED_INFO.pendingSelector));
  code.set(R.rax, 0);
  code.exchange(8, R.rax, at(SHARED + SHARED_INFO.eventPending));
  code.aluImmediate('cmp', 8, R.rax, 0);
  code.jumpIf('jz', 'no event');
  code.storeImmediate(4, at(FIRED), 1);
  code.label('no event');
  code.load(8, R.rcx, { base: R.rsp, disp: 8 });
  code.load(8, R.r11, { base: R.rsp, disp: 16 });
  // Xen tells kernel mode by privilege level 0, but the CPU is in ring 3 and returns to it.
  code.set(R.rax, 3);
  code.aluToMemory('or', 1, { base: R.rsp, disp: 32 }, R.rax);
  code.aluToMemory('or', 1, { base: R.rsp, disp: 56 }, R.rax);
  code.pop(R.rax);
  code.addressInto(R.rsp, { base: R.rsp, disp: 16 });
  code.bytes(0x48, 0xcf); // iretq

  code.label('failsafe');
  code.bytes(0x0f, 0x0b); // ud2: without handlers that ends the domain, which is to be seen
}

function constants(code: Assembler, line: ReportLine, digest: string): void {
  code.label('hex');
  code.bytes(...Buffer.from('0123456789abcdef'));
  code.label('state');
  const words = Buffer.alloc(32);
  for (const [i, word] of wordsOf(digest).entries()) words.writeUInt32LE(word, 4 * i);
  code.bytes(...words);
  code.label('line');
  code.bytes(...Buffer.from(line.text));
}

function copy(code: Assembler, from: string, to: number, length: number): void {
  code.setAddress(R.rsi, from);
  code.set(R.rdi, to);
  code.set(R.rcx, length);
  code.bytes(0xf3, 0xa4); // rep movsb
}
