/** One thing that `doctor` looked at: what it found, and what to do where it is not fit. */
export type Check =
  | { readonly name: string; readonly state: 'ok'; readonly found: string }
  /** `warning`: works without it, but slower or with less. `failed`: does not work. */
  | { readonly name: string; readonly state: 'warning' | 'failed'; readonly found: string; readonly fix: string };

export const ok = (name: string, found: string): Check => ({ name, state: 'ok', found });
export const warning = (name: string, found: string, fix: string): Check => ({ name, state: 'warning', found, fix });
export const failed = (name: string, found: string, fix: string): Check => ({ name, state: 'failed', found, fix });
