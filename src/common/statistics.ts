/** The few statistics that figures are reported with. Pure; nothing here rounds. */

/** A share of trials with its interval; all three in 0..1. */
export interface Proportion {
  readonly successes: number;
  readonly trials: number;
  /** `successes / trials`; NaN without trials. */
  readonly share: number;
  readonly low: number;
  readonly high: number;
}

/**
 * The exact interval of a binomial proportion (Clopper and Pearson, Biometrika 26, 1934): the set of probabilities
 * that a two-sided exact test at `1 - confidence` does not reject. Never too narrow, also at 0 and at `trials`.
 *
 * @param confidence in (0, 1); 0.95 by default
 * @throws RangeError unless 0 <= successes <= trials, both whole
 */
export function clopperPearson(successes: number, trials: number, confidence = 0.95): Proportion {
  if (!Number.isInteger(successes) || !Number.isInteger(trials) || successes < 0 || successes > trials) {
    throw new RangeError(`not a proportion: ${successes} of ${trials}`);
  }
  if (!(confidence > 0 && confidence < 1)) throw new RangeError(`not a confidence level: ${confidence}`);
  const tail = (1 - confidence) / 2;
  const failures = trials - successes;
  return {
    successes,
    trials,
    share: successes / trials,
    low: successes === 0 ? 0 : inverseIncompleteBeta(tail, successes, failures + 1),
    high: failures === 0 ? 1 : inverseIncompleteBeta(1 - tail, successes + 1, failures),
  };
}

/** A difference of two proportions, the first minus the second, with its interval; all in -1..1. */
export interface Difference {
  readonly difference: number;
  readonly low: number;
  readonly high: number;
}

/**
 * The interval of the difference of two independent proportions by Newcombe's hybrid of two Wilson intervals (method 10 of
 * Statistics in Medicine 17, 1998, page 873): close to its nominal coverage also at rates near 0 and 1, where ours are.
 *
 * @throws RangeError unless both are proportions of at least one trial
 */
export function differenceOfShares(a: Counted, b: Counted, confidence = 0.95): Difference {
  const first = wilson(a, confidence);
  const second = wilson(b, confidence);
  const difference = first.share - second.share;
  const reach = (x: number, y: number): number => Math.hypot(x, y);
  return {
    difference,
    low: difference - reach(first.share - first.low, second.high - second.share),
    high: difference + reach(first.high - first.share, second.share - second.low),
  };
}

/** So many of so many. */
export interface Counted {
  readonly successes: number;
  readonly trials: number;
}

/**
 * Wilson's score interval of one proportion (Journal of the American Statistical Association 22, 1927). A part of the interval of
 * a difference; a single proportion is reported with `clopperPearson`.
 */
export function wilson({ successes, trials }: Counted, confidence = 0.95): Proportion {
  if (!(trials > 0 && successes >= 0 && successes <= trials)) {
    throw new RangeError(`not a proportion: ${successes} of ${trials}`);
  }
  const z = normalQuantile(1 - (1 - confidence) / 2);
  const share = successes / trials;
  const scale = 1 / (1 + (z * z) / trials);
  const middle = scale * (share + (z * z) / (2 * trials));
  const reach = scale * z * Math.sqrt((share * (1 - share)) / trials + (z * z) / (4 * trials * trials));
  // At the ends rounding would leave a tiny rest.
  const low = successes === 0 ? 0 : middle - reach;
  const high = successes === trials ? 1 : middle + reach;
  return { successes, trials, share, low, high };
}

/**
 * The two-sided p-value of Fisher's exact test: the probability, with both margins as they are and no difference between the two, of
 * a table that is at most as likely as this one (Fisher 1935; this is the two-sided form that R uses).
 */
export function fisherExact(a: Counted, b: Counted): number {
  const total = a.trials + b.trials;
  const successes = a.successes + b.successes;
  const logOf = (x: number): number =>
    logChoose(a.trials, x) + logChoose(b.trials, successes - x) - logChoose(total, successes);
  const observed = logOf(a.successes);
  let sum = 0;
  const last = Math.min(a.trials, successes);
  for (let x = Math.max(0, successes - b.trials); x <= last; x++) {
    const log = logOf(x);
    // As likely as the one observed, but for rounding.
    if (log <= observed + 1e-7) sum += Math.exp(log);
  }
  return Math.min(1, sum);
}

const logChoose = (n: number, k: number): number => logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1);

/** The `z` below which a standard normal variable lies with probability `p`. Bisection over the error function's integral. */
function normalQuantile(p: number): number {
  let low = -40;
  let high = 40;
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) return middle;
    if (normalProbability(middle) < p) low = middle;
    else high = middle;
  }
}

/** P(Z < z), by the series of Marsaglia, "Evaluating the Normal Distribution", Journal of Statistical Software 11, 2004. */
function normalProbability(z: number): number {
  if (z < -8) return 0;
  if (z > 8) return 1;
  let sum = z;
  let term = z;
  for (let i = 3, before = 0; sum !== before; i += 2) {
    before = sum;
    term *= (z * z) / i;
    sum += term;
  }
  return 0.5 + sum * Math.exp(-0.5 * z * z - 0.5 * Math.log(2 * Math.PI));
}

/**
 * The quantile with linear interpolation between order statistics (type 7 of Hyndman and Fan, The American
 * Statistician 50, 1996: the one that R and NumPy use by default). NaN without values.
 *
 * @param q in 0..1
 */
export function quantile(values: readonly number[], q: number): number {
  if (!(q >= 0 && q <= 1)) throw new RangeError(`not a quantile: ${q}`);
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const position = (sorted.length - 1) * q;
  const below = Math.floor(position);
  const low = sorted[below] ?? Number.NaN;
  const high = sorted[Math.min(below + 1, sorted.length - 1)] ?? Number.NaN;
  return low + (high - low) * (position - below);
}

export interface Summary {
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

/** The figures that a latency is reported with, in the unit of `values`. NaN where there are none. */
export function summarize(values: readonly number[]): Summary {
  return {
    count: values.length,
    p50: quantile(values, 0.5),
    p95: quantile(values, 0.95),
    p99: quantile(values, 0.99),
    max: quantile(values, 1),
  };
}

/**
 * The regularized incomplete beta function I_x(a, b): the probability that a Beta(a, b) variable is at most `x`.
 * By its continued fraction, evaluated with the modified Lentz method (Thompson and Barnett, J. Comput. Phys. 64, 1986).
 */
export function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x));
  // The fraction converges fast only left of the mean; on the other side use I_x(a, b) = 1 - I_{1-x}(b, a).
  return x < (a + 1) / (a + b + 2) ? (front * betaFraction(x, a, b)) / a : 1 - (front * betaFraction(1 - x, b, a)) / b;
}

/** The `x` at which I_x(a, b) is `p`, to the resolution of a double. Bisection: I_x is monotonous, so it cannot miss. */
function inverseIncompleteBeta(p: number, a: number, b: number): number {
  let low = 0;
  let high = 1;
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) return middle;
    if (incompleteBeta(middle, a, b) < p) low = middle;
    else high = middle;
  }
}

function betaFraction(x: number, a: number, b: number): number {
  const tiny = Number.MIN_VALUE / Number.EPSILON;
  const notZero = (value: number): number => (Math.abs(value) < tiny ? tiny : value);
  let c = 1;
  let d = 1 / notZero(1 - ((a + b) * x) / (a + 1));
  let result = d;
  for (let m = 1; m <= 10_000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / notZero(1 + even * d);
    c = notZero(1 + even / c);
    result *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / notZero(1 + odd * d);
    c = notZero(1 + odd / c);
    const factor = d * c;
    result *= factor;
    if (Math.abs(factor - 1) < 1e-15) break;
  }
  return result;
}

/** log of the gamma function for x > 0: Stirling's series, after raising `x` by recurrence to where it is exact. */
function logGamma(x: number): number {
  let shift = 0;
  let z = x;
  for (; z < 15; z++) shift += Math.log(z);
  const inverse = 1 / z;
  const square = inverse * inverse;
  const series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))));
  return (z - 0.5) * Math.log(z) - z + 0.5 * Math.log(2 * Math.PI) + series - shift;
}
