/** Instructions in a form in which two builds can be compared: addresses become names, jumps become line numbers. */
import { Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register } from 'iced-x86';
import { type CodeBlock, stableName } from './code-blocks.js';
import { type ElfFile, isAllocated } from './elf.js';

export interface NormalInstruction {
  /** Everything that must be equal in two builds. */
  readonly text: string;
  /** The same without `distance`. */
  readonly shape: string;
  /** Displacement from a base register other than the stack pointer. */
  readonly distance: bigint | undefined;
  /** Bytes from the start of the block. */
  readonly offset: number;
}

export class Normalizer {
  readonly #elf: ElfFile;
  readonly #from: bigint;
  readonly #to: bigint;
  readonly #sections: readonly { readonly name: string; readonly from: bigint; readonly to: bigint }[];
  readonly #names = new Map<bigint, string>();

  constructor(elf: ElfFile) {
    this.#elf = elf;
    this.#sections = elf.sections
      .filter((s) => isAllocated(s) && s.size > 0)
      .map((s) => ({ name: s.name, from: s.address, to: s.address + BigInt(s.size) }))
      .sort((a, b) => (a.from < b.from ? -1 : 1));
    this.#from = this.#sections[0]?.from ?? 0n;
    this.#to = this.#sections.at(-1)?.to ?? 0n;
  }

  /** Decodes a block. Padding at its end is left out, since it depends on where the next block begins. */
  normalize(block: CodeBlock): NormalInstruction[] {
    const code: NormalInstruction[] = [];
    const targets: { index: number; to: number }[] = [];
    const lineAt = new Map<number, number>();
    const size = block.bytes.length;
    let used = 0;
    const decoder = new Decoder(64, block.bytes, DecoderOptions.None);
    const instruction = new Instruction();
    try {
      decoder.ip = block.address;
      while (decoder.canDecode) {
        decoder.decodeOut(instruction);
        const offset = Number(BigInt.asUintN(64, instruction.ip) - block.address);
        lineAt.set(offset, code.length);
        const operands: string[] = [];
        let distance: bigint | undefined;
        let branch = false;
        for (let i = 0; i < instruction.opCount; i++) {
          const kind = instruction.opKind(i);
          switch (kind) {
            case OpKind.Register:
              operands.push(`r${instruction.opRegister(i)}`);
              break;
            case OpKind.NearBranch16:
            case OpKind.NearBranch32:
            case OpKind.NearBranch64: {
              branch = true;
              const to = BigInt.asUintN(64, instruction.nearBranchTarget) - block.address;
              if (to >= 0n && to < BigInt(size)) targets.push({ index: code.length, to: Number(to) });
              else operands.push(this.#name(BigInt.asUintN(64, instruction.nearBranchTarget)));
              break;
            }
            case OpKind.Memory: {
              const { memoryBase: base, memoryIndex: index } = instruction;
              const displacement = BigInt.asUintN(64, instruction.memoryDisplacement);
              const place = `m${instruction.memorySegment},${base},${index},${instruction.memoryIndexScale}`;
              if (this.#inImage(displacement)) operands.push(`${place},${this.#name(displacement)}`);
              else if (base === Register.None || base === Register.RSP || base === Register.ESP)
                operands.push(`${place},${displacement}`);
              else {
                operands.push(place);
                distance = BigInt.asIntN(64, displacement);
              }
              break;
            }
            case OpKind.Immediate8:
            case OpKind.Immediate8_2nd:
            case OpKind.Immediate16:
            case OpKind.Immediate32:
            case OpKind.Immediate64:
            case OpKind.Immediate8to16:
            case OpKind.Immediate8to32:
            case OpKind.Immediate8to64:
            case OpKind.Immediate32to64: {
              const value = BigInt.asUintN(64, instruction.immediate(i));
              operands.push(this.#inImage(value) ? this.#name(value) : `i${value}`);
              break;
            }
            default:
              operands.push(`k${kind}`);
          }
        }
        // A short and a near jump are the same jump.
        const head = branch ? `j${instruction.mnemonic}` : `${instruction.code}`;
        const prefix = `${instruction.hasLockPrefix ? 'lock ' : ''}${instruction.hasRepPrefix || instruction.hasRepnePrefix ? 'rep ' : ''}`;
        const shape = `${prefix}${head} ${operands.join(' ')}`;
        code.push({ text: distance === undefined ? shape : `${shape} @${distance}`, shape, distance, offset });
        if (!isPadding(instruction)) used = code.length;
      }
    } finally {
      instruction.free();
      decoder.free();
    }
    code.length = used;
    for (const { index, to } of targets) {
      const line = code[index];
      // A jump into the middle of an instruction cannot be counted in lines; keep the bytes.
      if (line !== undefined) code[index] = { ...line, text: `${line.text} L${lineAt.get(to) ?? `+${to}`}` };
    }
    return code;
  }

  #inImage(va: bigint): boolean {
    // The gaps between sections count too: code refers to the very end of a section.
    return va >= this.#from && va < this.#to;
  }

  #sectionAt(va: bigint): { readonly name: string } | undefined {
    return this.#sections.find((s) => va >= s.from && va < s.to);
  }

  /** What stands at an address in words that hold in both builds. */
  #name(va: bigint): string {
    let name = this.#names.get(va);
    if (name === undefined) {
      const found = this.#elf.symbols.at(va);
      const section = this.#sectionAt(va);
      // Between symbols there are string constants and jump tables, which have no name to compare.
      const covered = found !== undefined && (found.offset < found.symbol.size || found.offset === 0);
      const inCode = section?.name.endsWith('.text') === true;
      name =
        found !== undefined && (covered || inCode)
          ? `${stableName(found.symbol.name)}+${found.offset}`
          : `${section?.name ?? 'nowhere'}`;
      this.#names.set(va, name);
    }
    return name;
  }
}

function isPadding(instruction: Instruction): boolean {
  return (
    instruction.mnemonic === Mnemonic.Nop ||
    instruction.mnemonic === Mnemonic.Int3 ||
    instruction.mnemonic === Mnemonic.INVALID ||
    // Zero fill decodes as this.
    (instruction.code === Code.Add_rm8_r8 &&
      instruction.memoryBase === Register.RAX &&
      instruction.memoryDisplacement === 0n &&
      instruction.op1Register === Register.AL)
  );
}
