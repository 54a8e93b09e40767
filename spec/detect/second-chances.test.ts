import { describe, expect, it } from 'vitest';
import type { Failure } from '../../src/detect/failure.js';
import { SecondChances } from '../../src/detect/second-chances.js';

const crashOf = (domain: number, detectedAtMs: number): Failure => ({
  kind: 'domain-crash',
  domain,
  summary: '',
  detectedAtMs,
});

describe('second chances', () => {
  it('blame Xen for the first crash of a domain, and the domain for one that follows at once', () => {
    const chances = new SecondChances();
    expect([100, 120, 130].map((ms) => chances.isOwnEnd(crashOf(0, ms)))).toEqual([false, true, true]);
  });

  it('are given to each domain, and again after some time', () => {
    const chances = new SecondChances();
    expect(chances.isOwnEnd(crashOf(0, 100))).toBe(false);
    expect(chances.isOwnEnd(crashOf(1, 110))).toBe(false);
    expect(chances.isOwnEnd(crashOf(0, 60_000))).toBe(false);
  });

  it('have nothing to say of a failure that ends no domain', () => {
    const chances = new SecondChances();
    const panic: Failure = { kind: 'panic', summary: '', detectedAtMs: 1 };
    expect([panic, panic].map((failure) => chances.isOwnEnd(failure))).toEqual([false, false]);
  });
});
