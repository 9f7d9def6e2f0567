/** Changes to the page: only where something is different, so that a selection, the focus and a screen reader stay where they are. */

import type { Tone } from '../shapes.js';

const SVG = 'http://www.w3.org/2000/svg';

/** @throws Error if the page lacks it. */
export function byId(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

/** Always as text: nothing of a view is HTML. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element: Element, name: string, value: string): void {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = '',
  text = '',
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== '') element.className = className;
  if (text !== '') element.textContent = text;
  return element;
}

export function makeSvg(tag: string, attributes: Readonly<Record<string, string>> = {}): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** What a cell shows. */
export type Cell =
  | string
  /** A state, with a sign beside the text. */
  | { readonly tone: Tone; readonly text: string }
  /** Where something lies between 0 and 1. The other cells say the same in words. */
  | { readonly from: number; readonly to: number; readonly isOpen: boolean };

export interface TableRow {
  readonly key: string;
  readonly cells: readonly Cell[];
  readonly className?: string;
}

/** A table without rows is not shown: the text below it says so. @param classes of the columns. The first cell of a row is its header. */
export function setRows(body: HTMLElement, rows: readonly TableRow[], classes: readonly string[]): void {
  const there = new Map<string, HTMLTableRowElement>();
  for (const row of body.querySelectorAll('tr')) there.set(row.dataset.key ?? '', row);
  let at: Element | null = body.firstElementChild;
  for (const { key, cells, className = '' } of rows) {
    const row = there.get(key) ?? newRow(key, cells.length, classes);
    there.delete(key);
    if (row === at) at = row.nextElementSibling;
    else body.insertBefore(row, at);
    setAttribute(row, 'class', className);
    cells.forEach((cell, index) => {
      const element = row.children[index];
      if (element !== undefined) setCell(element, cell);
    });
  }
  for (const row of there.values()) row.remove();
  const region = body.closest<HTMLElement>('.scroll');
  if (region !== null) region.hidden = rows.length === 0;
}

function newRow(key: string, cells: number, classes: readonly string[]): HTMLTableRowElement {
  const row = make('tr');
  row.dataset.key = key;
  for (let at = 0; at < cells; at++) {
    const cell = at === 0 ? make('th', classes[at]) : make('td', classes[at]);
    if (at === 0) cell.setAttribute('scope', 'row');
    row.append(cell);
  }
  return row;
}

function setCell(element: Element, cell: Cell): void {
  if (typeof cell === 'string') {
    setText(element, cell);
    return;
  }
  if ('tone' in cell) {
    const sign = element.firstElementChild ?? element.appendChild(make('span', 'sign'));
    setAttribute(sign, 'data-tone', cell.tone);
    setText(sign, cell.text);
    return;
  }
  const svg = element.firstElementChild ?? element.appendChild(newBar({ class: 'barline' }));
  const fill = svg.lastElementChild;
  if (fill === null) return;
  setAttribute(fill, 'x', String(cell.from * 100));
  // So short a step is still seen.
  setAttribute(fill, 'width', String(Math.max(0.8, (cell.to - cell.from) * 100)));
  setAttribute(fill, 'class', cell.isOpen ? 'fill open' : 'fill');
}

/** A track and how much of it is filled. */
export function newBar(attributes: Readonly<Record<string, string>> = {}): SVGElement {
  const svg = makeSvg('svg', {
    ...attributes,
    viewBox: '0 0 100 4',
    preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  });
  svg.append(
    makeSvg('rect', { class: 'track', width: '100', height: '4' }),
    makeSvg('rect', { class: 'fill', height: '4' }),
  );
  return svg;
}

/** The pairs of a description list. */
export function setPairs(list: HTMLElement, pairs: readonly (readonly [string, string])[]): void {
  while (list.children.length > pairs.length) list.lastElementChild?.remove();
  pairs.forEach(([label, value], at) => {
    let pair = list.children[at];
    if (pair === undefined) {
      pair = make('div');
      pair.append(make('dt'), make('dd'));
      list.append(pair);
    }
    const [term, description] = pair.children;
    if (term !== undefined) setText(term, label);
    if (description !== undefined) setText(description, value);
  });
}
