/**
 * Flame graphs of V8's CPU profiles, as SVG: where the processor time of a row goes, on each side. The width of a box is the time in
 * this function and in all that it calls; what stands on top of it was called by it. Idle time is left out.
 */

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { escapeXml } from './bars.js';

const WIDTH = 1200;
const ROW_HEIGHT = 15;
const TITLE_HEIGHT = 22;
/** Narrower boxes are left out: nobody could read them. */
const LEAST_SHARE = 0.003;
const CHARACTER_WIDTH = 6.1;
/** Time in which the process does nothing, and what is no function. */
const IDLE: ReadonlySet<string> = new Set(['(idle)']);

interface ProfileNode {
  readonly id: number;
  readonly callFrame: { readonly functionName: string; readonly url: string };
  readonly children?: readonly number[];
}

/** What V8 writes with --cpu-prof. */
export interface CpuProfile {
  /** Microseconds of CLOCK_MONOTONIC. */
  readonly startTime: number;
  readonly nodes: readonly ProfileNode[];
  readonly samples: readonly number[];
  /** Microseconds since the sample before. */
  readonly timeDeltas: readonly number[];
}

interface Box {
  readonly name: string;
  us: number;
  readonly callees: Map<string, Box>;
}

function boxOf(name: string): Box {
  return { name, us: 0, callees: new Map() };
}

export function nameOf({ functionName, url }: ProfileNode['callFrame']): string {
  if (functionName !== '') return functionName;
  return url.startsWith('node:') ? `(${url})` : '(anonymous)';
}

function addProfile(root: Box, { nodes, samples, timeDeltas }: CpuProfile): void {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const callers = new Map<number, number>();
  for (const { id, children = [] } of nodes) for (const child of children) callers.set(child, id);
  samples.forEach((id, at) => {
    const path: string[] = [];
    for (let node = byId.get(id); node !== undefined; node = byId.get(callers.get(node.id) ?? -1)) {
      path.push(nameOf(node.callFrame));
    }
    if (IDLE.has(path[0] ?? '')) return;
    const us = timeDeltas[at] ?? 0;
    let box = root;
    box.us += us;
    // The last one is V8's root.
    for (const name of path.slice(0, -1).reverse()) {
      let callee = box.callees.get(name);
      if (callee === undefined) {
        callee = boxOf(name);
        box.callees.set(name, callee);
      }
      callee.us += us;
      box = callee;
    }
  });
}

/** A colour for each name, always the same. */
function colourOf(name: string): string {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.charCodeAt(0)) % 997;
  return `hsl(${20 + (hash % 40)}, 75%, ${58 + (hash % 5) * 4}%)`;
}

function draw(box: Box, x: number, depth: number, total: number, parts: string[]): number {
  let deepest = depth;
  let left = x;
  for (const callee of [...box.callees.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const width = (callee.us / total) * WIDTH;
    if (callee.us / total >= LEAST_SHARE) {
      const y = TITLE_HEIGHT + depth * ROW_HEIGHT;
      const share = ((callee.us / total) * 100).toFixed(1);
      const text = callee.name.slice(0, Math.floor((width - 4) / CHARACTER_WIDTH));
      parts.push(
        `<g><title>${escapeXml(callee.name)}: ${share} %</title>` +
          `<rect x="${left.toFixed(1)}" y="${y}" width="${Math.max(0.5, width - 0.5).toFixed(1)}" height="${ROW_HEIGHT - 1}" fill="${colourOf(callee.name)}"/>` +
          (text.length < 3
            ? ''
            : `<text x="${(left + 2).toFixed(1)}" y="${y + 11}">${escapeXml(text)}</text>`) +
          '</g>',
      );
      deepest = Math.max(deepest, draw(callee, left, depth + 1, total, parts));
    }
    left += width;
  }
  return deepest;
}

export function flameSvg(title: string, profiles: readonly CpuProfile[]): string {
  const root = boxOf('all');
  for (const profile of profiles) addProfile(root, profile);
  const parts: string[] = [];
  const depth = draw(root, 0, 0, Math.max(1, root.us), parts);
  const height = TITLE_HEIGHT + (depth + 1) * ROW_HEIGHT;
  const seconds = (root.us / 1e6).toFixed(2);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="monospace" font-size="10">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="4" y="15" font-size="12">${escapeXml(title)}: ${seconds} s of processor time</text>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

/** Node's options that make a process write its profile into this folder when it exits. */
export function profilingOptions(folder: string): readonly string[] {
  return ['--cpu-prof', '--cpu-prof-interval=200', `--cpu-prof-dir=${folder}`];
}

/** What the processes of one side have left in the folder. */
export function profilesIn(folder: string, side: string): CpuProfile[] {
  const place = join(folder, side);
  if (!existsSync(place)) return [];
  const files = readdirSync(place).filter((name) => name.endsWith('.cpuprofile'));
  return files.map((name) => JSON.parse(readFileSync(join(place, name), 'utf8')) as CpuProfile);
}

/** Draws what the processes of one side have left in the folder. @returns the file, or undefined if there is nothing. */
export function drawProfiles(folder: string, side: string, title: string): string | undefined {
  const profiles = profilesIn(folder, side);
  if (profiles.length === 0) return undefined;
  const svg = join(folder, `${side}.svg`);
  writeFileSync(svg, flameSvg(`${title}, ${side}`, profiles));
  return svg;
}
