/**
 * The unikernel: a PV guest of a few pages, for the "new VM" that a recovered hypervisor has to be able to create. It is at work
 * milliseconds after Xen has started it, so what its creation takes is the toolstack's and Xen's own work. Like the big guests
 * it computes a chain that the supervisor can check (`mix.ts`), and reports into pages of its own.
 *
 * Each step crosses the hypervisor in ways that a broken one gets wrong: the page that carries the state is unmapped and mapped
 * again, the CPU is given away, a timer is set, and the guest blocks until that timer's event has been *delivered*. With a disk
 * it is BlkBench, too: the rest of the state goes to the disk, is read back into other pages and compared with what was written.
 */
import { Assembler, R } from './assembler.js';
import { BLK_READ, BLK_WRITE, blkfront, complete, connectDisk, submit } from './blkfront.js';
import { pvElf } from './elf.js';
import {
  CODE,
  CODE_PAGES,
  DISK_PAGES,
  END,
  EVTCHNOP,
  GOLDEN,
  HYPERCALL,
  HYPERCALLS,
  PAGE,
  PTE,
  READ,
  REPORTS,
  SCHEDOP,
  SHARED,
  SHARED_INFO,
  STACK_TOP,
  START_INFO,
  STORE,
  UVMF_INVLPG,
  V,
  WORK,
} from './layout.js';
import { FACTOR, mixStart, STIR_ROTATION, TAKE_ROTATION, type UnikernelWork, wordsIn, wordsOf } from './mix.js';
import { type ReportLine, report, reporting, reportLine, stage } from './report.js';
import { at, fail, hypercall, rest, runtime } from './runtime.js';
import { xenstore } from './xenstore.js';

export interface UnikernelOptions {
  readonly name: string;
  /** Begin of the reports. */
  readonly magic: string;
  /** Rest between two steps, in milliseconds. */
  readonly restMs: number;
  readonly work: UnikernelWork;
}

/** The guest's kernel, an ELF file. */
export function unikernel({ name, magic, restMs, work }: UnikernelOptions): Buffer {
  const line = reportLine(magic, name, work);
  const code = new Assembler(CODE);
  start(code, line);
  if (work === 'blkbench') connectDisk(code, line);
  loop(code, line, work, restMs);
  runtime(code);
  if (work === 'blkbench') {
    xenstore(code);
    blkfront(code);
  }
  reporting(code, line);
  code.label('state');
  code.bytes(...stateAtBegin(name));
  const content = code.finish();
  if (content.length > CODE_PAGES * PAGE) throw new RangeError('the unikernel is longer than its pages');
  return pvElf({ base: CODE, content, memorySize: END - CODE, entry: CODE, hypercallPage: HYPERCALLS });
}

function stateAtBegin(name: string): Buffer {
  const words = Buffer.alloc(32);
  for (const [i, word] of wordsOf(mixStart(name)).entries()) words.writeUInt32LE(word, 4 * i);
  return words;
}

/** Throughout: r12 is the number of the step, r13 that of the failed checks. */
function start(code: Assembler, line: ReportLine): void {
  code.bytes(0xfc); // cld
  code.set(R.rsp, STACK_TOP);
  code.move(8, R.rbx, R.rsi); // start_info
  code.set(R.r12, 0);
  code.set(R.r13, 0);

  map(code, SHARED, () => code.load(8, R.rsi, { base: R.rbx, disp: START_INFO.sharedInfo }));
  map(code, STORE, () => {
    code.load(8, R.rsi, { base: R.rbx, disp: START_INFO.storeFrame });
    code.shift('shl', 8, R.rsi, 12);
  });
  code.load(4, R.rax, { base: R.rbx, disp: START_INFO.storePort });
  code.store(4, at(V.storePort), R.rax);
  code.load(8, R.rax, { base: R.rbx, disp: START_INFO.mfnList });
  code.store(8, at(V.frames), R.rax);
  code.load(8, R.rax, { base: R.rax, disp: (WORK / PAGE) * 8 });
  code.shift('shl', 8, R.rax, 12);
  code.aluImmediate('or', 8, R.rax, PTE);
  code.store(8, at(V.workEntry), R.rax);
  letEventsIn(code);

  copy(code, 'state', V.state, 32);
  copy(code, 'line', REPORTS, line.text.length);
  copy(code, 'line', REPORTS + PAGE, line.text.length);
}

/** Maps a page at `address`; `frame` gets its machine address into rsi. */
function map(code: Assembler, address: number, frame: () => void): void {
  frame();
  code.aluImmediate('or', 8, R.rsi, PTE);
  code.set(R.rdi, address);
  code.set(R.rdx, UVMF_INVLPG);
  hypercall(code, HYPERCALL.updateVaMapping);
}

function letEventsIn(code: Assembler): void {
  // Only while the guest blocks, which also keeps the handler from ever meeting itself.
  code.storeImmediate(1, at(SHARED + SHARED_INFO.upcallMask), 1);
  code.setAddress(R.rdi, 'upcall');
  code.setAddress(R.rsi, 'failsafe');
  code.set(R.rdx, 0);
  hypercall(code, HYPERCALL.setCallbacks);

  // Zeros ask for the timer's virtual interrupt on vCPU 0; Xen puts the port behind them.
  code.set(R.rdi, EVTCHNOP.bindVirq);
  code.set(R.rsi, V.bindVirq);
  hypercall(code, HYPERCALL.eventChannelOp);
  code.load(4, R.rcx, at(V.bindVirq + 8));
  code.set(R.rax, 1);
  code.shiftByCl('shl', 8, R.rax);
  code.store(8, at(V.timerBit), R.rax);
  code.set(R.rax, 0);
  code.store(8, at(SHARED + SHARED_INFO.eventMask), R.rax);
}

function copy(code: Assembler, from: string, to: number, length: number): void {
  code.setAddress(R.rsi, from);
  code.set(R.rdi, to);
  code.set(R.rcx, length);
  code.bytes(0xf3, 0xa4); // rep movsb
}

function loop(code: Assembler, line: ReportLine, work: UnikernelWork, restMs: number): void {
  code.label('step');
  code.aluImmediate('add', 4, R.r12, 1);
  stage(code, line, 'work');
  stir(code, work);
  if (work === 'blkbench') thereAndBack(code, line);
  else disturb(code);
  take(code, work);
  report(code);
  stage(code, line, 'rest');
  rest(code, restMs);
  code.jump('step');
}

const stateAt = (index: typeof R.rax | typeof R.rdx): Parameters<Assembler['load']>[2] => ({
  index,
  scale: 4,
  disp: V.state,
});

/** Fills the pages up to the work's page, that one included. */
function stir(code: Assembler, work: UnikernelWork): void {
  code.aluToMemory('xor', 4, at(V.state), R.r12);
  code.set(R.rcx, 0);
  code.label('stir');
  code.move(4, R.rax, R.rcx);
  code.aluImmediate('and', 4, R.rax, 7);
  code.addressInto(R.rdx, { base: R.rcx, disp: 1 });
  code.aluImmediate('and', 4, R.rdx, 7);
  code.load(4, R.rsi, stateAt(R.rax));
  code.alu('xor', 4, R.rsi, stateAt(R.rdx));
  stirWord(code, STIR_ROTATION);
  code.store(4, { index: R.rcx, scale: 4, disp: work === 'blkbench' ? GOLDEN : WORK }, R.rsi);
  nextWord(code, 'stir', work);
}

/** Takes in the work's page and, behind it, what was read. */
function take(code: Assembler, work: UnikernelWork): void {
  code.set(R.rcx, 0);
  code.label('take');
  code.move(4, R.rax, R.rcx);
  code.aluImmediate('and', 4, R.rax, 7);
  code.load(4, R.rsi, stateAt(R.rax));
  code.alu('xor', 4, R.rsi, { index: R.rcx, scale: 4, disp: WORK });
  stirWord(code, TAKE_ROTATION);
  nextWord(code, 'take', work);
}

function stirWord(code: Assembler, rotation: number): void {
  code.multiplyImmediate(R.rsi, R.rsi, FACTOR);
  code.shift('rol', 4, R.rsi, rotation);
  code.alu('add', 4, R.rsi, R.rcx);
  code.store(4, stateAt(R.rax), R.rsi);
}

function nextWord(code: Assembler, label: string, work: UnikernelWork): void {
  code.aluImmediate('add', 4, R.rcx, 1);
  code.aluImmediate('cmp', 4, R.rcx, wordsIn(work));
  code.jumpIf('jb', label);
}

/** The golden copy goes to the disk; the page that reading finds has something else in it. */
function thereAndBack(code: Assembler, line: ReportLine): void {
  stage(code, line, 'write');
  submit(code, BLK_WRITE, GOLDEN);
  disturb(code);
  complete(code);
  stage(code, line, 'read');
  submit(code, BLK_READ, READ);
  complete(code);
  code.set(R.rsi, GOLDEN);
  code.set(R.rdi, READ);
  code.set(R.rcx, DISK_PAGES * PAGE);
  code.bytes(0xf3, 0xa6); // repe cmpsb
  code.jumpIf('jz', 'same');
  fail(code, 'data');
  code.label('same');
}

/** While the state is out on the work's page: the page goes and comes back, and so does the CPU. */
function disturb(code: Assembler): void {
  for (const entry of ['none', 'work'] as const) {
    code.set(R.rdi, WORK);
    if (entry === 'none') code.set(R.rsi, 0);
    else code.load(8, R.rsi, at(V.workEntry));
    code.set(R.rdx, UVMF_INVLPG);
    hypercall(code, HYPERCALL.updateVaMapping);
    code.set(R.rdi, SCHEDOP.yield);
    code.set(R.rsi, 0);
    hypercall(code, HYPERCALL.schedOp);
  }
}
