/**
 * A client of XenStore, one question at a time, over the ring in the page that Xen's toolstack has given the domain
 * (Xen 4.17, xen/include/public/io/xs_wire.h). Waits for the answer by its event.
 */
import { type Assembler, R } from './assembler.js';
import { ANSWER, EVTCHNOP, HYPERCALL, MESSAGE, PAGE, STORE, V } from './layout.js';
import { at, block, failForGood, hypercall, ret } from './runtime.js';

/** `struct xenstore_domain_interface`: two rings of 1024 bytes, and how far each side is in them. */
export const STORE_RING = {
  size: 1024,
  requests: 0,
  answers: 1024,
  requestsProduced: 2052,
  answersConsumed: 2056,
  answersProduced: 2060,
} as const;
/** `struct xsd_sockmsg`: type, request, transaction and length of the payload, 4 bytes each. */
export const STORE_HEADER = { type: 0, request: 4, transaction: 8, length: 12, size: 16 } as const;
/** `enum xsd_sockmsg_type`. An answer has the type of its question, or that of an error. */
export const STORE_READ = 2;
export const STORE_WRITE = 11;

/** Address of the answer's payload, which ends with a zero. */
export const ANSWER_TEXT = ANSWER + STORE_HEADER.size;
const PAYLOAD_LIMIT = PAGE - STORE_HEADER.size - 1;

/** Begins a question. rdi is where its text goes on, until it is asked. */
export const begin = (code: Assembler): void => code.set(R.rdi, MESSAGE + STORE_HEADER.size);

/** Appends the text with this label, which ends with a zero, to the question. */
export function append(code: Assembler, label: string): void {
  code.setAddress(R.rsi, label);
  code.call('append');
}

/** Asks for the value of the path that is the question. Without an answer the guest has failed. */
export function ask(code: Assembler): void {
  code.call('ask');
}

/** Gives the node of one label the value of another. */
export function write(code: Assembler, path: string, value: string): void {
  begin(code);
  append(code, path);
  code.addressInto(R.rdi, { base: R.rdi, disp: 1 }); // The zero is there.
  append(code, value);
  code.call('write');
}

export function xenstore(code: Assembler): void {
  // Bytes from rsi to rdi up to a zero, which is copied, too; rdi is left at it.
  code.label('append');
  code.loadByte(R.rax, { base: R.rsi });
  code.store(1, { base: R.rdi }, R.rax);
  code.aluImmediate('cmp', 4, R.rax, 0);
  code.jumpIf('jz', 'appended');
  code.aluImmediate('add', 8, R.rsi, 1);
  code.aluImmediate('add', 8, R.rdi, 1);
  code.jump('append');
  code.label('appended');
  ret(code);

  // A path goes with its zero, a value without.
  code.label('ask');
  code.aluImmediate('add', 8, R.rdi, 1);
  code.set(R.rax, STORE_READ);
  code.jump('talk');
  code.label('write');
  code.set(R.rax, STORE_WRITE);
  send(code);
  receive(code);
}

/** A message of type eax, whose payload ends at rdi. The last answer has been taken, so there is room for it. */
function send(code: Assembler): void {
  code.label('talk');
  code.store(4, at(MESSAGE + STORE_HEADER.type), R.rax);
  code.aluImmediate('sub', 8, R.rdi, MESSAGE);
  code.move(4, R.rcx, R.rdi);
  code.aluImmediate('sub', 8, R.rdi, STORE_HEADER.size);
  code.store(4, at(MESSAGE + STORE_HEADER.length), R.rdi);
  code.set(R.rsi, MESSAGE);
  code.load(4, R.rdx, at(STORE + STORE_RING.requestsProduced));
  code.label('send byte');
  code.load(1, R.rax, { base: R.rsi });
  code.move(4, R.rdi, R.rdx);
  code.aluImmediate('and', 4, R.rdi, STORE_RING.size - 1);
  code.store(1, { base: R.rdi, disp: STORE + STORE_RING.requests }, R.rax);
  code.aluImmediate('add', 8, R.rsi, 1);
  code.aluImmediate('add', 4, R.rdx, 1);
  code.aluImmediate('sub', 4, R.rcx, 1);
  code.jumpIf('jnz', 'send byte');
  code.store(4, at(STORE + STORE_RING.requestsProduced), R.rdx);
  code.set(R.rdi, EVTCHNOP.send);
  code.set(R.rsi, V.storePort);
  hypercall(code, HYPERCALL.eventChannelOp);
}

/** The answer: its header, then a payload of the length that is in it. */
function receive(code: Assembler): void {
  code.set(R.r8, ANSWER);
  code.set(R.r9, STORE_HEADER.size);
  code.call('receive');
  code.load(4, R.r9, at(ANSWER + STORE_HEADER.length));
  code.aluImmediate('cmp', 4, R.r9, PAYLOAD_LIMIT);
  code.jumpIf('jb', 'length is fine');
  failForGood(code, 'xenstore');
  code.label('length is fine');
  code.call('receive');
  code.storeImmediate(1, { base: R.r8 }, 0);
  code.load(4, R.rax, at(ANSWER + STORE_HEADER.type));
  code.alu('cmp', 4, R.rax, at(MESSAGE + STORE_HEADER.type));
  code.jumpIf('jz', 'answered');
  failForGood(code, 'xenstore');
  code.label('answered');
  ret(code);

  // r9 bytes to r8, which is left behind them.
  code.label('receive');
  code.aluImmediate('cmp', 4, R.r9, 0);
  code.jumpIf('jz', 'received');
  code.load(4, R.rdx, at(STORE + STORE_RING.answersConsumed));
  code.alu('cmp', 4, R.rdx, at(STORE + STORE_RING.answersProduced));
  code.jumpIf('jnz', 'a byte is there');
  block(code);
  code.jump('receive');
  code.label('a byte is there');
  code.move(4, R.rax, R.rdx);
  code.aluImmediate('and', 4, R.rax, STORE_RING.size - 1);
  code.load(1, R.rax, { base: R.rax, disp: STORE + STORE_RING.answers });
  code.store(1, { base: R.r8 }, R.rax);
  code.aluImmediate('add', 4, R.rdx, 1);
  code.store(4, at(STORE + STORE_RING.answersConsumed), R.rdx);
  code.aluImmediate('add', 8, R.r8, 1);
  code.aluImmediate('sub', 4, R.r9, 1);
  code.jump('receive');
  code.label('received');
  ret(code);
}
