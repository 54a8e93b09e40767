/** Instruction decoding, the little of it that recovery needs, over `iced-x86`. Pure. */
import { Code, Decoder, DecoderOptions, FlowControl, type Instruction as IcedInstruction, Mnemonic } from 'iced-x86';

export { Code, Mnemonic, OpKind, Register } from 'iced-x86';

export interface Instruction {
  readonly address: bigint;
  /** Address of the instruction that follows in memory; the return address when this one is a call. */
  readonly next: bigint;
  readonly mnemonic: Mnemonic;
  readonly flow: 'next' | 'call' | 'jump' | 'branch' | 'return' | 'stop';
  /** Where a direct call, jump or branch goes. */
  readonly target?: bigint;
  /** Operands and everything else; valid until the next one is decoded. */
  readonly raw: IcedInstruction;
}

/** Decodes straight through `code`, which lies at `address`; ends at its end or at an invalid instruction. */
export function* decode(code: Uint8Array, address: bigint): Generator<Instruction> {
  const decoder = new Decoder(64, code, DecoderOptions.None);
  try {
    decoder.ip = address;
    while (decoder.canDecode) {
      const raw = decoder.decode();
      try {
        if (raw.code === Code.INVALID) return;
        const flow = flowOf(raw);
        const direct = (flow === 'call' || flow === 'jump' || flow === 'branch') && raw.nearBranchTarget !== 0n;
        yield {
          address: raw.ip,
          next: raw.nextIP,
          mnemonic: raw.mnemonic,
          flow,
          ...(direct ? { target: raw.nearBranchTarget } : {}),
          raw,
        };
      } finally {
        raw.free();
      }
    }
  } finally {
    decoder.free();
  }
}

function flowOf(instruction: IcedInstruction): Instruction['flow'] {
  // To the decoder it is a kind of call; to Xen's code it is an instruction after which the next one follows.
  if (instruction.mnemonic === Mnemonic.Vmrun) return 'next';
  switch (instruction.flowControl) {
    case FlowControl.Call:
    case FlowControl.IndirectCall:
      return 'call';
    case FlowControl.UnconditionalBranch:
    case FlowControl.IndirectBranch:
      return 'jump';
    case FlowControl.ConditionalBranch:
      return 'branch';
    case FlowControl.Return:
      return 'return';
    case FlowControl.Exception:
    case FlowControl.Interrupt:
      return 'stop';
    default:
      return 'next';
  }
}

/**
 * Whether the bytes that end at a return address are those of a call: `call rel32`, or an indirect call through a
 * register or memory. `before` holds the 7 bytes in front of the return address.
 */
export function endsInCall(before: Uint8Array): boolean {
  const n = before.length;
  if (n >= 5 && before[n - 5] === 0xe8) return true;
  for (const size of [2, 3, 4, 6, 7]) {
    if (n < size || before[n - size] !== 0xff) continue;
    const modrm = before[n - size + 1]!;
    if (((modrm >> 3) & 7) !== 2) continue;
    if (indirectCallSize(modrm, before[n - size + 2]) === size) return true;
  }
  return false;
}

/** Length of an `ff /2` call, prefixes not counted, from its ModRM byte and, where there is one, its SIB byte. */
function indirectCallSize(modrm: number, sib: number | undefined): number {
  const mod = modrm >> 6;
  const rm = modrm & 7;
  if (mod === 3) return 2;
  const withSib = rm === 4 ? 1 : 0;
  if (mod === 1) return 3 + withSib;
  if (mod === 2) return 6 + withSib;
  const wideDisplacement = rm === 5 || (withSib === 1 && sib !== undefined && (sib & 7) === 5);
  return 2 + withSib + (wideDisplacement ? 4 : 0);
}
