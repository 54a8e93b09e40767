/**
 * A guest in one sector: CPU 0 counts in 64-bit code, all others in 16-bit code. Assembled with GNU as; each line is one
 * instruction (as objdump shows it, addresses relative to the start).
 */
const CODE = [
  // 16-bit, at 0x7c00: copy the other CPUs' code to 0x8000, enter protected mode
  'fa', // cli
  '31c0', // xor %ax,%ax
  '8ed8', // mov %ax,%ds
  '8ec0', // mov %ax,%es
  'beaa7c', // mov $0x7caa,%si
  'bf0080', // mov $0x8000,%di
  'b90b00', // mov $0xb,%cx
  'fc', // cld
  'f3a4', // rep movsb %ds:(%si),%es:(%di)
  '0f0116d87c', // lgdtw 0x7cd8
  '0f20c0', // mov %cr0,%eax
  '0c01', // or $0x1,%al
  '0f22c0', // mov %eax,%cr0
  'ea257c0800', // ljmp $0x8,$0x7c25
  // 32-bit: INIT and SIPI (vector 8: 0x8000) to all other CPUs; map the first 2 MiB; enter long mode
  '66b81000', // mov $0x10,%ax
  '8ed8', // mov %eax,%ds
  '8ec0', // mov %eax,%es
  '8ed0', // mov %eax,%ss
  'bc00700000', // mov $0x7000,%esp
  'c7050003e0fe00450c00', // movl $0xc4500,0xfee00300
  'b900001000', // mov $0x100000,%ecx
  'e2fe', // loop 0x43
  'c7050003e0fe08460c00', // movl $0xc4608,0xfee00300
  'c7050010000003200000', // movl $0x2003,0x1000
  'c7050020000003300000', // movl $0x3003,0x2000
  'c7050030000083000000', // movl $0x83,0x3000
  'b800100000', // mov $0x1000,%eax
  '0f22d8', // mov %eax,%cr3
  '0f20e0', // mov %cr4,%eax
  '0c20', // or $0x20,%al
  '0f22e0', // mov %eax,%cr4
  'b9800000c0', // mov $0xc0000080,%ecx
  '0f32', // rdmsr
  '660d0001', // or $0x100,%ax
  '0f30', // wrmsr
  '0f20c0', // mov %cr0,%eax
  '0d00000080', // or $0x80000000,%eax
  '0f22c0', // mov %eax,%cr0
  'ea9c7c00001800', // ljmp $0x18,$0x7c9c
  // 64-bit, at 0x7c9c: count in 0x7000 for ever
  'ff042500700000', // incl 0x7000
  'ebf7', // jmp 0x9c
  // 64-bit, at 0x7ca5: a function that doubles its argument
  '488d043f', // lea (%rdi,%rdi,1),%rax
  'c3', // ret
  // 16-bit, run at 0x8000: count in 0x7004 for ever
  '31c0', // xor %ax,%ax
  '8ed8', // mov %ax,%ds
  '66ff060470', // incl 0x7004
  'ebf9', // jmp 0xae
  // padding, then the descriptor table: null, 32-bit code, data, 64-bit code
  '8d7400',
  '0000000000000000',
  'ffff0000009bcf00',
  'ffff00000093cf00',
  'ffff0000009baf00',
  '1f00b87c0000', // its limit and address
].join('');

/** What a test needs to know of the guest. Physical addresses, which CPU 0 also sees as virtual ones. */
export const GUEST = {
  /** 32-bit counter of CPU 0. */
  counter: 0x7000,
  /** 32-bit counter of the other CPUs together. */
  otherCounter: 0x7004,
  /** The loop of CPU 0: an increment and a jump back. */
  loop: 0x7c9cn,
  jump: 0x7ca3n,
  /** rax = rdi * 2; ret. Called by nobody in the guest. */
  double: 0x7ca5n,
  pageTable: 0x1000n,
} as const;

/** A floppy image with the guest in its first sector. */
export function bootImage(): Buffer {
  const image = Buffer.alloc(1440 * 1024);
  image.write(CODE, 'hex');
  image.writeUInt16LE(0xaa55, 510);
  return image;
}
