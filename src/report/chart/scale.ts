/** From values to places on an axis, and the round values at which an axis is marked. Pure. */

export interface Scale {
  readonly low: number;
  readonly high: number;
  /** Place of a value; values outside are put at the nearer end. */
  at(value: number): number;
  readonly ticks: readonly number[];
}

/** @param ticks how many marks about; they are round numbers (1, 2 or 5 times a power of ten apart) */
export function linearScale(domain: readonly [number, number], range: readonly [number, number], ticks = 5): Scale {
  const [low, high] = domain;
  const [from, to] = range;
  const span = high - low || 1;
  return {
    low,
    high,
    at: (value) => from + ((clamp(value, low, high) - low) / span) * (to - from),
    ticks: linearTicks(low, high, ticks),
  };
}

/** A scale on which equal steps are equal ratios; `domain` must be above 0. Marked at 1, 2 and 5 times the powers of ten, as `room` allows. */
export function logScale(domain: readonly [number, number], range: readonly [number, number], ticks = 8): Scale {
  const [low, high] = domain;
  if (!(low > 0 && high > low)) throw new RangeError(`not a domain of a logarithmic scale: ${low} to ${high}`);
  const [from, to] = range;
  const span = Math.log(high / low);
  return {
    low,
    high,
    at: (value) => from + (Math.log(clamp(value, low, high) / low) / span) * (to - from),
    ticks: logTicks(low, high, ticks),
  };
}

/** The smallest domain of whole 1-2-5 steps that holds all values: `[1, 50]` for 1.3 to 41. */
export function logDomain(values: readonly number[]): [number, number] {
  const positive = values.filter((value) => value > 0);
  if (positive.length === 0) return [1, 10];
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (const value of positive) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const below =
    stepsOfDecades(low, low)
      .filter((step) => step <= low)
      .at(-1) ?? low;
  const above = stepsOfDecades(high, high).find((step) => step >= high) ?? high;
  return above > below ? [below, above] : [below, below * 10];
}

export function linearTicks(low: number, high: number, wanted: number): number[] {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) ?? 10) * power;
  const ticks: number[] = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) ticks.push(round(n * step));
  return ticks;
}

function logTicks(low: number, high: number, wanted: number): number[] {
  const inside = (values: readonly number[]): number[] =>
    values.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  const fine = inside(stepsOfDecades(low, high));
  const decades = inside(stepsOfDecades(low, high, [1]));
  return fine.length <= wanted || decades.length < 2 ? fine : decades;
}

/** 1, 2 and 5 times each power of ten from below `low` to above `high`. */
function stepsOfDecades(low: number, high: number, factors: readonly number[] = [1, 2, 5]): number[] {
  const steps: number[] = [];
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.ceil(Math.log10(high)) + 1; power++) {
    for (const factor of factors) steps.push(round(factor * 10 ** power));
  }
  return steps;
}

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

/** Without the dust of binary fractions: 0.3, not 0.30000000000000004. */
const round = (value: number): number => Number(value.toPrecision(12));
