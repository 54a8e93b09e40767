/** Addresses are branded so that a physical one is never used where a virtual one is meant. */

declare const kind: unique symbol;

/** A physical address of the box. A number: the box has at most 16 GiB, far below 2^53. */
export type PhysicalAddress = number & { readonly [kind]: 'physical' };

/** A 64-bit virtual address, canonical, as an unsigned bigint. */
export type VirtualAddress = bigint & { readonly [kind]: 'virtual' };

export const PAGE_SIZE = 4096;
export const PAGE_SHIFT = 12;

export const physical = (value: number | bigint): PhysicalAddress => Number(value) as PhysicalAddress;

/** Any 64-bit value as an unsigned virtual address. */
export const virtual = (value: bigint): VirtualAddress => BigInt.asUintN(64, value) as VirtualAddress;

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
