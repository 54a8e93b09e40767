/** What a long operation tells whoever watches. The CLI draws it; tests collect it; the library never prints. */
export interface Progress {
  /** A step begins; `label` is a short phrase such as "booting the box". Ends the step before it, if any. */
  step(label: string): void;
  /** How far the current step is: a short phrase such as "12 of 40 MB" or "PrivVM is up". */
  detail(text: string): void;
}

/** A progress that nobody watches. */
export const silent: Progress = { step() {}, detail() {} };
