/** The geometry of a chart over time, and what it says in words. Pure: the browser draws it. */

/** Size of the drawing, in its own units. */
export const CHART = { width: 320, height: 110, left: 40, right: 4, top: 8, bottom: 18 } as const;
/** What a chart shows. */
export const SPAN_MS = 120_000;
/** Points come once a second. Where they are further apart, nobody served, or nobody answered. */
export const GAP_MS = 2600;

export interface Sample {
  readonly atMs: number;
  readonly values: readonly number[];
}

export interface ChartLine {
  /** For `d` of an SVG path. */
  readonly line: string;
  /** The same closed along the axis. */
  readonly area: string;
}

export interface Chart {
  readonly lines: readonly ChartLine[];
  readonly top: number;
  /** From and to, in units of the drawing. */
  readonly gaps: readonly (readonly [number, number])[];
}

/**
 * @param samples in the order of their times. @param endMs what is at the right edge. @param count of values in a sample.
 * @param leastTop what the axis shows at least: next to nothing shall not look like much.
 */
export function chartOf(samples: readonly Sample[], endMs: number, count: number, leastTop = 0): Chart {
  const fromMs = endMs - SPAN_MS;
  const shown = samples.filter(({ atMs }) => atMs > fromMs && atMs <= endMs);
  const top = niceTop(Math.max(leastTop, ...shown.flatMap(({ values }) => values)));
  const { left, right, width, height, bottom } = CHART;
  const x = (atMs: number): number => rounded(left + ((atMs - fromMs) / SPAN_MS) * (width - left - right));
  const floor = height - bottom;
  const y = (value: number): number => rounded(floor - (value / top) * (floor - CHART.top));
  const gaps: (readonly [number, number])[] = [];
  const pieces: Sample[][] = [];
  let before: Sample | undefined;
  for (const sample of shown) {
    if (before === undefined || sample.atMs - before.atMs > GAP_MS) {
      if (before !== undefined) gaps.push([x(before.atMs), x(sample.atMs)]);
      pieces.push([]);
    }
    pieces.at(-1)?.push(sample);
    before = sample;
  }
  if (before !== undefined && endMs - before.atMs > GAP_MS) gaps.push([x(before.atMs), x(endMs)]);
  const lines = Array.from({ length: count }, (_, at): ChartLine => {
    const drawn = pieces.map((piece) => {
      const points = piece.map(({ atMs, values }) => `${x(atMs)} ${y(values[at] ?? 0)}`);
      const [first, last] = [piece[0], piece.at(-1)];
      const line = `M${points.join('L')}`;
      const area =
        first === undefined || last === undefined
          ? ''
          : `${line}L${x(last.atMs)} ${floor}L${x(first.atMs)} ${floor}Z`;
      return { line, area };
    });
    return { line: drawn.map(({ line }) => line).join(''), area: drawn.map(({ area }) => area).join('') };
  });
  return { lines, top, gaps };
}

/** 1, 2 or 5 times a power of ten, at least the value. */
export function niceTop(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 2, 5, 10].find((one) => one * power >= value) ?? 10;
  return factor * power;
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
