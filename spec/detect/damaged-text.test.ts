import { describe, expect, it } from 'vitest';
import { TextWatch } from '../../src/detect/damaged-text.js';
import { copyImage } from '../../src/xen/image.js';
import { FakeXen } from '../support/fake-xen.js';

/** Looks until there is damage; at most as often as it takes to see all of the image. */
function looksUntilSeen(watch: TextWatch): { looks: number; at: bigint } | undefined {
  for (let looks = 1; looks <= 200; looks++) {
    const at = watch.look();
    if (at !== undefined) return { looks, at };
  }
  return undefined;
}

describe('TextWatch', () => {
  it('sees damage to the entry code at the next look, and any other soon', () => {
    const fake = new FakeXen();
    const xen = fake.xen();
    const image = copyImage(xen);
    const watch = new TextWatch(xen, image);
    expect(looksUntilSeen(watch)).toBeUndefined();
    const flip = (at: bigint): void => fake.put(at, 1, xen.memory.u8(at) ^ 4);
    for (const [name, most] of [
      ['lstar_enter', 1],
      ['do_mmu_update', 200],
    ] as const) {
      const at = xen.symbol(name) + 5n;
      flip(at);
      const seen = looksUntilSeen(watch);
      expect(seen?.at).toBe(at);
      expect(seen?.looks).toBeLessThanOrEqual(most);
      flip(at);
      expect(looksUntilSeen(watch)).toBeUndefined();
    }
  });
});
