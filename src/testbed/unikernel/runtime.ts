/** What every part of the unikernel stands on: hypercalls, events, the clock, and the count of failed checks. */
import { type Assembler, type Mem, R } from './assembler.js';
import { HYPERCALL, HYPERCALLS, SCHEDOP, SHARED, SHARED_INFO, V } from './layout.js';

export const at = (disp: number): Mem => ({ disp });
const RET = 0xc3;
export const ret = (code: Assembler): void => code.bytes(RET);

/** The checks, by the names in the reports; at most 9 letters. */
export const CHECKS = ['hypercall', 'xenstore', 'backend', 'sectors', 'disk', 'answer', 'grant', 'data'] as const;
export type Check = (typeof CHECKS)[number];
/** Room of a check's name in the report. */
export const CHECK_ROOM = 9;

/** Calls Xen; every hypercall that is made here has to give 0. Arguments are in rdi, rsi, rdx; changes rax, rcx, r11, too. */
export function hypercall(code: Assembler, number: number): void {
  code.set(R.rax, HYPERCALLS + 32 * number);
  code.callRegister(R.rax);
  code.call('count failure');
}

/** Counts a failed check and goes on. Changes rsi. */
export function fail(code: Assembler, check: Check): void {
  code.setAddress(R.rsi, `check ${check}`);
  code.call('fail');
}

/** Counts a failed check after which there is nothing to go on with. */
export function failForGood(code: Assembler, check: Check): void {
  fail(code, check);
  code.jump('dead');
}

/** Blocks until some event has come in; comes back at once when one is pending already. */
export const block = (code: Assembler): void => code.call('block');

/** Blocks until the event of a timer that is set now has come in. */
export function rest(code: Assembler, ms: number): void {
  code.set(R.r9, ms * 1_000_000);
  code.call('rest');
}

/** The routines that the functions above call, and what Xen calls. */
export function runtime(code: Assembler): void {
  code.label('count failure');
  code.aluImmediate('cmp', 8, R.rax, 0);
  code.jumpIf('jz', 'fine');
  code.setAddress(R.rsi, 'check hypercall');
  code.label('fail');
  code.aluImmediate('add', 4, R.r13, 1);
  code.store(8, at(V.failedCheck), R.rsi);
  code.label('fine');
  ret(code);

  code.label('block');
  code.set(R.rdi, SCHEDOP.block);
  code.set(R.rsi, 0);
  hypercall(code, HYPERCALL.schedOp);
  ret(code);

  sleeping(code);
  upcall(code);

  for (const check of CHECKS) {
    code.label(`check ${check}`);
    code.bytes(...Buffer.from(check.padEnd(CHECK_ROOM, '.')));
  }
}

/** For r9 nanoseconds. */
function sleeping(code: Assembler): void {
  code.label('rest');
  code.set(R.rax, 0);
  code.store(8, at(V.fired), R.rax);
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
  code.alu('add', 8, R.rax, R.r9);
  code.move(8, R.rdi, R.rax);
  hypercall(code, HYPERCALL.setTimerOp);
  code.label('not yet');
  block(code);
  code.load(8, R.rax, at(V.fired));
  code.alu('and', 8, R.rax, at(V.timerBit));
  code.jumpIf('jz', 'not yet');
  ret(code);
}

/** Events are let in only while the guest blocks, so this never meets itself. */
function upcall(code: Assembler): void {
  // Xen has pushed rcx and r11 above the frame that IRETQ takes, and holds back further events.
  code.label('upcall');
  code.push(R.rax);
  code.storeImmediate(1, at(SHARED + SHARED_INFO.upcallPending), 0);
  code.set(R.rax, 0);
  code.exchange(8, R.rax, at(SHARED + SHARED_INFO.pendingSelector));
  code.set(R.rax, 0);
  code.exchange(8, R.rax, at(SHARED + SHARED_INFO.eventPending));
  code.aluToMemory('or', 8, at(V.fired), R.rax);
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
