/** The page of a fleet. */

import type { FleetGroup, FleetPageView, FleetStep, Tone, VersionShare } from '../shapes.js';
import { byId, make, newBar, setAttribute, setRows, setText, type TableRow } from './dom.js';
import { follow } from './live.js';

const NODE_COLUMNS = ['', '', 'version', ''];
const STEP_COLUMNS = ['', '', 'wide', 'number', 'number', 'time wide'];
const PAUSE_COLUMNS = ['', '', 'number', 'time wide'];

const STEP_TONES: Readonly<Record<FleetStep['is'], Tone>> = {
  done: 'good',
  running: 'busy',
  'to come': 'idle',
  'not needed': 'idle',
};

function stepRow({ key, text, is, group, began, took, bar }: FleetStep): TableRow {
  const place = bar === undefined ? '' : { ...bar, isOpen: is === 'running' };
  return {
    key,
    className: is === 'running' ? 'current' : '',
    cells: [text, { tone: STEP_TONES[is], text: is }, group, began, took, place],
  };
}

function showVersions(list: HTMLElement, versions: readonly VersionShare[]): void {
  while (list.children.length > versions.length) list.lastElementChild?.remove();
  versions.forEach(({ version, count, share, isNew }, at) => {
    let item = list.children[at];
    if (item === undefined) {
      item = make('li', 'card progress');
      item.append(make('p', 'name'), newBar(), make('p', 'muted'));
      list.append(item);
    }
    const [name, svg, text] = item.children;
    setAttribute(item, 'class', isNew ? 'card progress new' : 'card progress');
    if (name !== undefined) setText(name, version);
    if (text !== undefined) setText(text, `${count} ${count === 1 ? 'node' : 'nodes'}`);
    if (svg?.lastElementChild) setAttribute(svg.lastElementChild, 'width', String(share * 100));
  });
}

function showGroups(place: HTMLElement, groups: readonly FleetGroup[]): void {
  while (place.children.length > groups.length) place.lastElementChild?.remove();
  groups.forEach((group, at) => {
    let section = place.children[at];
    if (section === undefined) {
      section = newGroup(at);
      place.append(section);
    }
    const body = section.querySelector('tbody');
    const caption = section.querySelector('caption');
    if (body === null || caption === null) return;
    setText(caption, `Group ${group.name}${group.text === '' ? '' : `, ${group.text}`}`);
    setRows(
      body,
      group.nodes.map(({ key, kind, name, host, version, state, tone }) => ({
        key,
        cells: [name, `${kind} on ${host}`, version ?? '-', { tone, text: state }],
      })),
      NODE_COLUMNS,
    );
  });
}

function newGroup(at: number): HTMLElement {
  const scroll = make('section', 'scroll');
  const caption = make('caption');
  caption.id = `group-${at}`;
  scroll.setAttribute('aria-labelledby', caption.id);
  scroll.tabIndex = 0;
  const table = make('table');
  const head = make('thead');
  const row = make('tr');
  for (const name of ['Node', 'Where', 'Version', 'State']) {
    const cell = make('th', '', name);
    cell.scope = 'col';
    row.append(cell);
  }
  head.append(row);
  table.append(caption, head, make('tbody'));
  scroll.append(table);
  return scroll;
}

function render(view: FleetPageView): void {
  showVersions(byId('versions'), view.versions);
  showGroups(byId('groups'), view.groups);
  setText(byId('seen'), view.seenText);
  setRows(byId('steps'), view.steps.map(stepRow), STEP_COLUMNS);
  setText(byId('steps-text'), view.stepsText);
  setRows(
    byId('pauses'),
    view.pauses.map(({ key, client, why, took, share }) => ({
      key,
      cells: [client, why, took, { from: 0, to: share, isOpen: false }],
    })),
    PAUSE_COLUMNS,
  );
  setText(byId('pauses-text'), view.pausesText);
}

follow<FleetPageView>({
  render,
  lostText: () => 'The command "holdfast fleet --http" does not answer',
});
