import { describe, expect, it } from 'vitest';
import { detectedFailures, PUBLISHED_FAULT_TYPES, PUBLISHED_LATENCIES } from '../../src/report/published.js';

describe('published figures', () => {
  it.each(PUBLISHED_FAULT_TYPES)('of $name have shares that add up', ({ notManifested, sdc, detected, systems }) => {
    expect(notManifested + sdc + detected).toBeCloseTo(1, 9);
    for (const { success, noVmf } of Object.values(systems)) expect(noVmf).toBeLessThanOrEqual(success);
  });

  it('have so many trials as failures were detected', () => {
    expect(PUBLISHED_FAULT_TYPES.map(detectedFailures)).toEqual([1000, 980, 1058]);
  });

  it.each(PUBLISHED_LATENCIES)('of the latency of $system add up to its total', ({ totalMs, parts }) => {
    expect(parts.reduce((sum, { ms }) => sum + ms, 0)).toBe(totalMs);
  });
});
