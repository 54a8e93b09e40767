/** Kinds of options that faults and triggers have in common. */
import { z } from 'zod';

/** `[low, high]`, both included and whole numbers between the bounds. */
export const range = (lowest: number, highest: number) =>
  z
    .tuple([z.int().min(lowest).max(highest), z.int().min(lowest).max(highest)])
    .refine(([low, high]) => low <= high, { error: 'the first number must not be above the second' });
