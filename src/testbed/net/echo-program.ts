/**
 * The UDP echo service of an AppVM (RFC 862) as a Linux program of some hundred bytes: Debian's busybox has nothing that listens
 * on UDP. One process, two system calls for each datagram, and no memory of whom it spoke to, so it goes on after anything that
 * happens to the sender.
 *
 * Interface: Linux, arch/x86/entry/syscalls/syscall_64.tbl; ELF: System V ABI, chapter 4 and 5.
 */
import { Assembler, R } from '../unikernel/assembler.js';

/** Bytes of the ELF header and its one program header. */
const HEADERS = 64 + 56;
const BASE = 0x400000;
const BUFFER_LENGTH = 2048;
/** Behind the code, on pages of its own that the file does not have. */
const BUFFER = BASE + 0x1000;
const PEER = BUFFER + BUFFER_LENGTH;
const PEER_LENGTH = PEER + 16;
const END = PEER_LENGTH + 16;

const SYSCALL = { sendto: 44, recvfrom: 45, socket: 41, bind: 49, exit: 60 } as const;
const AF_INET = 2;
const SOCK_DGRAM = 2;
const ADDRESS_LENGTH = 16;
/** What the program ends with where it cannot go on; it never ends otherwise. */
const EXIT = { socket: 1, bind: 2, receive: 3 } as const;

/** The program, an ELF file. @param port where it listens, at all of its machine's addresses */
export function echoProgram(port: number): Buffer {
  const code = new Assembler(BASE + HEADERS);
  code.set(R.rdi, AF_INET);
  code.set(R.rsi, SOCK_DGRAM);
  code.set(R.rdx, 0);
  call(code, SYSCALL.socket, EXIT.socket);
  code.move(8, R.r12, R.rax);

  code.move(8, R.rdi, R.r12);
  code.setAddress(R.rsi, 'address');
  code.set(R.rdx, ADDRESS_LENGTH);
  call(code, SYSCALL.bind, EXIT.bind);

  code.label('next');
  code.storeImmediate(4, { disp: PEER_LENGTH }, ADDRESS_LENGTH);
  datagram(code);
  code.set(R.rdx, BUFFER_LENGTH);
  code.set(R.r9, PEER_LENGTH);
  call(code, SYSCALL.recvfrom, EXIT.receive);

  datagram(code);
  code.move(8, R.rdx, R.rax);
  code.set(R.r9, ADDRESS_LENGTH);
  // An answer that cannot be sent now is one that is lost on the way.
  call(code, SYSCALL.sendto, undefined);
  code.jump('next');

  for (const status of Object.values(EXIT)) {
    code.label(`exit ${status}`);
    code.set(R.rdi, status);
    code.set(R.rax, SYSCALL.exit);
    code.bytes(0x0f, 0x05);
  }
  code.label('address');
  code.bytes(AF_INET, 0, port >> 8, port & 0xff, ...new Array<number>(12).fill(0));
  return elf(code.finish());
}

/** The arguments that recvfrom and sendto share. */
function datagram(code: Assembler): void {
  code.move(8, R.rdi, R.r12);
  code.set(R.rsi, BUFFER);
  code.set(R.r10, 0);
  code.set(R.r8, PEER);
}

/** @param exit status to end with where the kernel reports an error; without one, errors are passed over */
function call(code: Assembler, number: number, exit: number | undefined): void {
  code.set(R.rax, number);
  code.bytes(0x0f, 0x05); // syscall
  if (exit === undefined) return;
  code.aluImmediate('cmp', 8, R.rax, 0);
  code.jumpIf('js', `exit ${exit}`);
}

function elf(code: Buffer): Buffer {
  const header = Buffer.alloc(HEADERS);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // 64 bits, little-endian, version 1
  header.writeUInt16LE(2, 16); // executable
  header.writeUInt16LE(62, 18); // x86-64
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(BASE + HEADERS), 24); // entry
  header.writeBigUInt64LE(64n, 32); // program headers
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(1, 56);

  const program = header.subarray(64);
  program.writeUInt32LE(1, 0); // to be loaded
  program.writeUInt32LE(7, 4); // readable, writable, executable
  program.writeBigUInt64LE(BigInt(BASE), 16);
  program.writeBigUInt64LE(BigInt(BASE), 24);
  program.writeBigUInt64LE(BigInt(HEADERS + code.length), 32);
  program.writeBigUInt64LE(BigInt(END - BASE), 40);
  program.writeBigUInt64LE(0x1000n, 48);
  return Buffer.concat([header, code]);
}
