/** Where the time of a run goes: laps by name, in milliseconds. */
export class Stopwatch {
  readonly #spent: Record<string, number> = {};
  #since = performance.now();

  /** Ends a lap; without a name its time is not counted, because somebody else did. */
  lap(name: string | undefined): void {
    const now = performance.now();
    if (name !== undefined) this.#count(name, now - this.#since);
    this.#since = now;
  }

  add(times: Readonly<Record<string, number>>): void {
    for (const [name, ms] of Object.entries(times)) this.#count(name, ms);
  }

  get spentMs(): Readonly<Record<string, number>> {
    return this.#spent;
  }

  #count(name: string, ms: number): void {
    this.#spent[name] = Math.round((this.#spent[name] ?? 0) + ms);
  }
}
