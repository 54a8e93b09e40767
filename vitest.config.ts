import { defineConfig } from 'vitest/config';

/** `unit` needs nothing but Node. `box` starts real machines: one at a time, and it may take minutes. */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['spec/**/*.test.ts'],
          exclude: ['spec/**/*.box.test.ts'],
          // For tests that do not end. How fast they are on a host that is busy says nothing.
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'box',
          include: ['spec/**/*.box.test.ts'],
          fileParallelism: false,
          maxWorkers: 1,
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
