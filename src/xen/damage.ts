/** Looking at a Xen that failed: what was damaged leads to memory that is not there. That is a finding, not an error of ours. */
import { isNinelivesError } from '../common/errors.js';

/** What was read, or what is in the way of reading it, in words. */
export type Reading<T> = { readonly value: T } | { readonly damage: string };

/** Reads structures that may be damaged. Other errors than those of damage are thrown on. */
export function attempt<T>(read: () => T): Reading<T> {
  try {
    return { value: read() };
  } catch (error) {
    if (isNinelivesError(error, 'NL_UNMAPPED') || isNinelivesError(error, 'NL_PROFILE_MISMATCH'))
      return { damage: error.message };
    throw error;
  }
}

/** The same, where what is in the way does not matter. */
export function ifReadable<T>(read: () => T): T | undefined {
  const looked = attempt(read);
  return 'value' in looked ? looked.value : undefined;
}
