export interface Point {
  /** Minutes since the start. */
  readonly at: number;
  readonly value: number;
}

export interface Trend {
  /** Units a minute, by least squares. */
  readonly slope: number;
  /** Half of the slope's 95 % confidence interval. */
  readonly uncertainty: number;
  /** The least growth a minute that the interval allows; 0 when it includes none. */
  readonly certainGrowth: number;
  /** Standard deviation of what the line leaves unexplained. */
  readonly noise: number;
}

/** A straight line through the points; neighbours that move together widen its uncertainty. */
export function trendOf(points: readonly Point[]): Trend {
  const n = points.length;
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / n;
  const at = mean(points.map((point) => point.at));
  const value = mean(points.map((point) => point.value));
  const spread = points.reduce((sum, point) => sum + (point.at - at) ** 2, 0);
  const slope = points.reduce((sum, point) => sum + (point.at - at) * (point.value - value), 0) / spread;
  const rest = points.map((point) => point.value - value - slope * (point.at - at));
  const squares = rest.reduce((sum, one) => sum + one * one, 0);
  const neighbours = rest.slice(1).reduce((sum, one, index) => sum + one * (rest[index] ?? 0), 0);
  const correlation = squares === 0 ? 0 : Math.min(0.9, Math.max(0, neighbours / squares));
  // With correlated neighbours there are fewer independent points than points.
  const independent = Math.max(3, (n * (1 - correlation)) / (1 + correlation));
  const noise = Math.sqrt(squares / Math.max(1, n - 2));
  const uncertainty = (2 * noise * Math.sqrt(n / independent)) / Math.sqrt(spread);
  return { slope, uncertainty, certainGrowth: Math.max(0, slope - uncertainty), noise };
}
