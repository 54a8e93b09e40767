/** Values of options: from the text that was typed to what it means, or NL_USAGE with an example. Pure. */
import { usage } from './complain.js';

/** An option of a command. `value` is its placeholder in the help; without it the option is a switch. */
export interface OptionSpec {
  readonly name: string;
  readonly value?: string;
  readonly summary: string;
}

/** What was typed: each value option as text, each switch that was given. */
export interface Typed {
  readonly positional: readonly string[];
  text(name: string): string | undefined;
  given(name: string): boolean;
}

const whole = (name: string, text: string, low: number, high: number): number => {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= low && value <= high)) {
    throw usage(
      `--${name} is "${text}"`,
      `give a whole number from ${low} to ${high}, as in --${name} ${low * 4 || 4}`,
    );
  }
  return value;
};

/** Physical CPUs of the box, 1..16. */
export const parseCpus = (text: string): number => whole('cpus', text, 1, 16);

/** Runs of a demo, 1..100000. */
export const parseRuns = (text: string): number => {
  const value = whole('runs', text, 0, 100_000);
  if (value === 0) throw usage('--runs is "0"', 'give a whole number from 1 to 100000, as in --runs 50');
  return value;
};

/** The seed of every random choice, 0..2^32-1. */
export const parseSeed = (text: string): number => whole('seed', text, 0, 0xffff_ffff);

/** Memory of the box in MiB, 1..16 GiB: `2048`, `2048M`, `2G`, `2GiB`, `1.5G`. A number without a unit is MiB. */
export function parseMemory(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(m|mb|mib|g|gb|gib)?$/i.exec(text);
  const number = Number(match?.[1]);
  const mebibytes = match?.[2]?.toLowerCase().startsWith('g') ? number * 1024 : number;
  if (match === null || !Number.isInteger(mebibytes) || mebibytes < 1024 || mebibytes > 16_384) {
    throw usage(`--memory is "${text}"`, 'give 1 to 16 GiB, as in --memory 2G or --memory 2048');
  }
  return mebibytes;
}

export type Accelerator = 'tcg' | 'kvm';

export function parseAccelerator(text: string): Accelerator {
  if (text !== 'tcg' && text !== 'kvm') {
    throw usage(`--accel is "${text}"`, 'give tcg (software emulation, works everywhere) or kvm (needs /dev/kvm)');
  }
  return text;
}

/** Lines of a backtrace, 0..100. */
export const parseFrames = (text: string): number => whole('frames', text, 0, 100);
