/** The charts of the server's page, drawn as SVG. Each says in words what it shows. */

import { CHART, chartOf, type Sample } from '../chart.js';
import type { Point } from '../shapes.js';
import { shortNumber } from '../words.js';
import { make, makeSvg, setAttribute, setText } from './dom.js';

interface Line {
  readonly name: string;
  readonly of: (point: Point) => number;
}

interface ChartKind {
  readonly title: string;
  /** After a number. */
  readonly unit: string;
  /** What its axis shows at least. */
  readonly leastTop: number;
  readonly lines: readonly Line[];
}

const MIB = 1024 * 1024;
const KINDS: readonly ChartKind[] = [
  {
    title: 'Operations',
    unit: 'a second',
    leastTop: 10,
    lines: [{ name: 'all', of: (point) => point.perSecond }],
  },
  {
    title: 'Latency',
    unit: 'ms',
    leastTop: 1,
    lines: [
      { name: '99 %', of: (point) => point.p99Ms },
      { name: 'median', of: (point) => point.p50Ms },
    ],
  },
  {
    title: 'Content',
    unit: 'MiB a second',
    leastTop: 1,
    lines: [
      { name: 'written', of: (point) => point.writeBytes / MIB },
      { name: 'read', of: (point) => point.readBytes / MIB },
    ],
  },
];
const KEPT_MS = 180_000;

export class Charts {
  readonly #draw: readonly ((points: readonly Point[], endMs: number) => void)[];
  /** Also of the servers before this one: their points are not in its events. */
  #points: readonly Point[] = [];
  /** Between the clock of the server and that of the browser. */
  #aheadMs = 0;

  constructor(place: HTMLElement) {
    this.#draw = KINDS.map((kind) => {
      const chart = newChart(kind);
      place.append(chart.figure);
      return chart.draw;
    });
  }

  show(points: readonly Point[]): void {
    const [first] = points;
    const last = points.at(-1);
    if (first !== undefined && last !== undefined) {
      const before = this.#points.filter(({ atMs }) => atMs < first.atMs && atMs > last.atMs - KEPT_MS);
      this.#points = [...before, ...points];
      this.#aheadMs = last.atMs - Date.now();
    }
    this.#drawAll(last?.atMs ?? Date.now() + this.#aheadMs);
  }

  /** Nobody answers: time goes on all the same. */
  wait(): void {
    this.#drawAll(Date.now() + this.#aheadMs);
  }

  #drawAll(endMs: number): void {
    for (const draw of this.#draw) draw(this.#points, endMs);
  }
}

function newChart({ title, unit, leastTop, lines }: ChartKind): {
  readonly figure: HTMLElement;
  readonly draw: (points: readonly Point[], endMs: number) => void;
} {
  const { width, height, left, right, top, bottom } = CHART;
  const figure = make('figure', 'card chart');
  const caption = make('figcaption');
  const now = make('span', 'now');
  caption.append(make('span', 'what', title), now, make('span', 'unit', unit));
  const svg = makeSvg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img' });
  const floor = height - bottom;
  const middle = (floor + top) / 2;
  const gaps = makeSvg('g');
  svg.append(gaps);
  for (const y of [top, middle, floor]) {
    svg.append(
      makeSvg('line', {
        class: 'grid',
        x1: String(left),
        x2: String(width - right),
        y1: String(y),
        y2: String(y),
      }),
    );
  }
  const label = (x: number, y: number, anchor: string, text = ''): SVGElement => {
    const element = makeSvg('text', { x: String(x), y: String(y), 'text-anchor': anchor });
    element.textContent = text;
    svg.append(element);
    return element;
  };
  const topLabel = label(left - 5, top + 4, 'end');
  const middleLabel = label(left - 5, middle + 4, 'end');
  label(left - 5, floor + 4, 'end', '0');
  label(left, height - 4, 'start', '2 min ago');
  label(width - right, height - 4, 'end', 'now');
  const area = makeSvg('path', { class: 'area' });
  svg.append(area);
  // The first line is drawn last, so that it lies above the others.
  const paths = lines.map((_, at) => makeSvg('path', { class: `line line${at}` }));
  svg.append(...paths.toReversed());
  figure.append(caption, svg);
  if (lines.length > 1) {
    const legend = make('p', 'legend');
    legend.append(...lines.map(({ name }, at) => make('span', `key key${at}`, name)));
    figure.append(legend);
  }
  const draw = (points: readonly Point[], endMs: number): void => {
    const samples = points.map(
      (point): Sample => ({ atMs: point.atMs, values: lines.map(({ of }) => of(point)) }),
    );
    const chart = chartOf(samples, endMs, lines.length, leastTop);
    setText(topLabel, shortNumber(chart.top));
    setText(middleLabel, shortNumber(chart.top / 2));
    chart.lines.forEach(({ line, area: filled }, at) => {
      const path = paths[at];
      if (path !== undefined) setAttribute(path, 'd', line);
      if (at === 0) setAttribute(area, 'd', filled);
    });
    drawGaps(gaps, chart.gaps);
    const isNow = chart.gaps.at(-1)?.[1] !== width - right;
    const last = isNow ? samples.at(-1) : undefined;
    setText(now, last === undefined ? '-' : shortNumber(round(last.values[0] ?? 0)));
    setAttribute(
      svg,
      'aria-label',
      inWords({ title, unit, leastTop, lines }, samples, last, chart.gaps.length),
    );
  };
  return { figure, draw };
}

/** What is next to nothing is nothing: a reader wants a number at a glance. */
function round(value: number): number {
  return value < 0.05 ? 0 : value;
}

function drawGaps(group: SVGElement, gaps: readonly (readonly [number, number])[]): void {
  const { height, top, bottom } = CHART;
  while (group.children.length > gaps.length) group.lastElementChild?.remove();
  gaps.forEach(([from, to], at) => {
    const rect = group.children[at] ?? group.appendChild(makeSvg('rect', { class: 'gap' }));
    setAttribute(rect, 'x', String(from));
    setAttribute(rect, 'y', String(top));
    setAttribute(rect, 'width', String(to - from));
    setAttribute(rect, 'height', String(height - top - bottom));
  });
}

function inWords(
  { title, unit, lines }: ChartKind,
  samples: readonly Sample[],
  last: Sample | undefined,
  gaps: number,
): string {
  const parts = lines.map(({ name }, at) => {
    const values = samples.map(({ values: all }) => all[at] ?? 0);
    const highest = shortNumber(Math.max(0, ...values));
    const now = last === undefined ? 'nothing now' : `${shortNumber(last.values[at] ?? 0)} now`;
    return `${lines.length > 1 ? `${name}: ` : ''}${now}, ${highest} at most`;
  });
  const away = gaps > 0 ? `; no answer ${gaps === 1 ? 'once' : `${gaps} times`}` : '';
  return `${title} in the last two minutes, in ${unit}. ${parts.join('; ')}${away}.`;
}
