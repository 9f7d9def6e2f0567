/**
 * The live pages in a browser: an upgrade as a person sees it on the page of the server and on that of the fleet, from its start to its
 * end. Each state is held for as long as the test looks at it: a client that is stopped neither drains nor comes back.
 *
 * HOLDFAST_PICTURES=write waits until the charts are full, writes the pictures in docs/pictures, and the terminal in docs/FLEETS.md.
 */

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Page } from 'playwright-core';
import { packageRoot } from '../../native/binding.js';
import { Agent, O } from '../fixtures/agent.js';
import {
  barriers,
  cells,
  inPage,
  lacksChromium,
  openBrowser,
  SHOWN_MS,
  shows,
  tabStops,
} from '../fixtures/browser.js';
import { type Child, run } from '../fixtures/child.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { Worker } from '../fixtures/failover_pair.js';
import { NEW, OLD, testFleet } from '../fixtures/fleet.js';
import { until } from '../fixtures/until.js';
import { cleanUpFirst, freePort, lacks } from './programs.js';

const SHAPE = {
  targets: { single: ['s'], pair: ['a', 'b'] },
  clients: { c3: ['single'], c1: ['pair'], c2: ['pair'] },
  atOnce: 1,
};
const WIDE = { width: 1240, height: 900 };
const LIMIT_MS = 600_000;
const WRITES = process.env.HOLDFAST_PICTURES === 'write';
const PICTURES = join(packageRoot(), 'docs', 'pictures');
const PICTURE_MAX_BYTES = 200 * 1024;
/** How much the charts show of a picture's load, before and after what is shown. */
const BEFORE_MS = 100_000;
const AFTER_MS = 12_000;

/** Of the whole page. A test without HOLDFAST_PICTURES only looks how large it is. */
async function picture(page: Page, name: string): Promise<void> {
  await page.evaluate('document.activeElement?.blur()');
  const bytes = await page.screenshot({ fullPage: true, animations: 'disabled' });
  assert.ok(bytes.length > 5000, `${name} has ${bytes.length} bytes`);
  if (!WRITES) return;
  assert.ok(bytes.length < PICTURE_MAX_BYTES, `${name} has ${bytes.length} bytes`);
  mkdirSync(PICTURES, { recursive: true });
  writeFileSync(join(PICTURES, `${name}.png`), bytes);
}

/** Time that a picture needs so that its charts are full. */
async function passing(ms: number): Promise<void> {
  const began = performance.now();
  if (WRITES) await until('the charts are full', () => performance.now() - began > ms, ms + 10_000);
}

/** Content for the charts of a picture: one machine writes what the other one reads. */
class Content {
  #stop = false;
  readonly #running: Promise<void>;

  constructor(writer: Agent, reader: Agent) {
    this.#running = (async () => {
      for (let at = 0; !this.#stop; at++) {
        await writer.writeFile('content', String(at % 10).repeat((1 + (at % 5)) << 17));
        await reader.readFile('content');
      }
    })();
    // Looked at by stop().
    this.#running.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await this.#running;
  }
}

/** Light and dark, wide and narrow. */
async function looksWell(page: Page): Promise<void> {
  for (const colorScheme of ['dark', 'light'] as const) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await barriers(page), [], colorScheme);
  }
  const light = await inPage<string>(page, 'ground()');
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.notEqual(await inPage<string>(page, 'ground()'), light, 'dark is another ground');
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'reduce' });
  assert.equal(await inPage<number>(page, 'moving()'), 0, 'nothing moves for those who do not want it');
  await page.emulateMedia({ reducedMotion: 'no-preference' });
  await page.setViewportSize({ width: 400, height: 800 });
  assert.equal(await inPage<number>(page, 'width()'), 400, 'nothing is cut off');
  await page.setViewportSize(WIDE);
}

/** The client that the upgrade waits for. In a test it has the name that a person with bad intentions would choose. */
const SLOW = WRITES ? 'db1:/mnt/home' : 'db1:<img src=x onerror=alert(1)>\u202e&amp;';
const SLOW_SHOWN = SLOW.replace('\u202e', '\ufffd');

function escaped(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\/]/g, '\\$&');
}

function agentOn(dir: string, cleanUp: (() => Promise<unknown>)[]): Agent {
  const agent = new Agent(dir);
  cleanUp.push(() => {
    agent.child.kill('SIGKILL');
    return agent.child.exited;
  });
  return agent;
}

/** A program that goes on making small changes. */
async function load(cluster: Cluster, at: number, cleanUp: (() => Promise<unknown>)[]): Promise<Worker> {
  const dir = join(cluster.mounts[at]?.dir ?? '', `work-${at}`);
  const made = await run('mkdir', [dir]);
  assert.equal(made.code, 0, made.stderr);
  const agent = agentOn(dir, cleanUp);
  return new Worker(agent, await agent.open('file', O.CREAT | O.RDWR));
}

describe('live pages', { skip: lacksChromium() }, () => {
  test('the page of a server shows an upgrade from its start to its end', {
    timeout: LIMIT_MS,
  }, async (t) => {
    const metrics = `127.0.0.1:${await freePort()}`;
    const http = `127.0.0.1:${await freePort()}`;
    const url = `http://${http}/`;
    const cleanUp = cleanUpFirst(t);
    const cluster = await startCluster(t, {
      serveArgs: ['--http', http, '--metrics', metrics],
      mounts: 0,
      limitMs: LIMIT_MS,
    });
    await cluster.addMount(['name=web1:/mnt/home']);
    await cluster.addMount(['name=web2:/mnt/home']);
    const slow = await cluster.addMount([`name=${SLOW}`]);
    const evicted = await cluster.addMount(['name=old:/mnt/home']);
    await cluster.cliOk(['evict', cluster.admin, 'old:/mnt/home']);
    await cluster.umount(evicted);
    const loads = [await load(cluster, 0, cleanUp), await load(cluster, 1, cleanUp)];
    const agents = [0, 1].map((at) => agentOn(cluster.mounts[at]?.dir ?? '', cleanUp)) as [Agent, Agent];
    const content = WRITES ? new Content(...agents) : undefined;
    const browser = await openBrowser(cleanUp);
    const page = await browser.open(url);
    const state = (text: string): Promise<string> => shows(page, '#state', new RegExp(`^${text}$`));
    const says = (pattern: RegExp): Promise<string> => shows(page, '#headline', pattern);

    const chart = (): Promise<string> => inPage(page, "label('#charts svg')");

    await state('active');
    await says(/^Serving 3 clients, for [\d.]+ \w+( \d+ s)?\.$/);
    await until('operations are listed', async () => (await cells(page, '#operations')).length > 1, SHOWN_MS);
    await until(
      'the first chart says that something happens',
      async () =>
        /^Operations in the last two minutes, in a second\. \d[\d.]*( k)? now, [1-9]/.test(await chart()),
      SHOWN_MS,
    );
    const named = (await cells(page, '#clients')).map(([name = '']) => name);
    assert.deepEqual(named.sort(), [SLOW_SHOWN, 'web1:/mnt/home', 'web2:/mnt/home'].sort(), 'a name is text');
    assert.deepEqual(
      (await cells(page, '#evictions')).map(([name, why]) => [name, why]),
      [['old:/mnt/home', 'evicted by the administrator']],
    );
    await looksWell(page);
    await usesKeyboard(page);
    await passing(BEFORE_MS);

    // Down: this client does not drain until it may.
    slow.child.kill('SIGSTOP');
    const shutdown = cluster.cli(['shutdown', cluster.admin], undefined, SHOWN_MS);
    await state('shutting down');
    await says(
      new RegExp(
        `^Shutting down: waiting for ${escaped(SLOW_SHOWN)} since [\\d.]+ m?s; evicts in [\\d.]+ s\\.$`,
      ),
    );
    await shows(page, '#progress-text', /^2 of 3 clients drained$/);
    await shows(page, '#announcement', new RegExp(`^Shutting down: waiting for ${escaped(SLOW_SHOWN)}$`));
    const [first = []] = await cells(page, '#clients');
    assert.deepEqual([first[1], first[2]], ['draining', 'has to give its lock back']);
    await looksWell(page);
    await picture(page, 'server-draining');
    slow.child.kill('SIGCONT');
    assert.equal((await shutdown).code, 0);
    await cluster.serverEnded();
    await state('no answer');
    await says(
      /^The server has shut down, and the next one does not answer yet\. Connecting again since [\d.]+ m?s\.$/,
    );
    await shows(page, '#connection', /^Connecting again$/);
    const showsGap = async (): Promise<boolean> => (await chart()).endsWith('; no answer once.');
    await until('the charts show that nobody serves', showsGap, SHOWN_MS);
    await looksWell(page);

    // Up: this client does not come back until it may.
    slow.child.kill('SIGSTOP');
    const tree = cluster.otherTree();
    const next = cluster.serve({ tree });
    await state('recovering');
    await says(
      new RegExp(
        `^Recovering: 2 of 3 clients back, waiting for ${escaped(SLOW_SHOWN)} since [\\d.]+ m?s; gives up on them in [\\d.]+ s\\.$`,
      ),
    );
    const [away = []] = await cells(page, '#clients');
    assert.deepEqual([away[1], away[2]], ['not back', 'has to come back']);
    slow.child.kill('SIGCONT');
    await next;
    await state('active');
    await says(/^Serving 3 clients/);
    await shows(page, '#facts', new RegExp(tree.version.replaceAll('+', '\\+')));
    assert.ok(await showsGap(), 'the charts show when nobody served');
    await Promise.all(loads.map((worker) => worker.goesOn()));
    await passing(AFTER_MS);
    await page.emulateMedia({ colorScheme: 'dark' });
    await picture(page, 'server-dark');
    await page.emulateMedia({ colorScheme: 'light' });

    // A standby on the same host has the same addresses for its page and its metrics.
    const standby = cluster.startServer({ tree: cluster.otherTree(), args: ['--standby'] });
    await standby.standingBy();
    await cluster.shutdown();
    await standby.ready();
    cluster.adopt(standby);
    await shows(page, '#facts', new RegExp(`Instance${standby.instance}N`));
    await state('active');

    const counted = await until(
      'the metrics of the standby are where those of the server before it were',
      async () => (await fetch(`http://${metrics}/metrics`).catch(() => undefined))?.text(),
      SHOWN_MS,
    );
    assert.match(counted, /^holdfast_server_state\{state="active"\} 1$/m);

    await content?.stop();
    await Promise.all(loads.map((worker) => worker.stop()));
    browser.assertQuiet(url);
    // A slow machine takes its time to unmount so many names.
    for (const step of cleanUp.splice(0).reverse()) await step();
    for (const mount of cluster.mounts.filter(({ child }) => child.exit === undefined))
      await cluster.umount(mount);
  });

  test('the page of a fleet shows an upgrade from its start to its end', {
    timeout: LIMIT_MS,
    skip: lacks('sshd', 'openssh-server'),
  }, async (t) => {
    const http = `127.0.0.1:${await freePort()}`;
    const url = `http://${http}/`;
    const cleanUp = cleanUpFirst(t);
    const fleet = await testFleet(t, SHAPE, LIMIT_MS);
    const started = (...words: string[]): Child => {
      const child = fleet.start(...words);
      cleanUp.push(() => {
        child.kill('SIGTERM');
        return child.exited;
      });
      return child;
    };
    const shown = started('--http', http);
    await shown.line(/page of \S+ at http:/);
    const browser = await openBrowser(cleanUp);
    const page = await browser.open(url);
    const state = (text: string): Promise<string> => shows(page, '#state', new RegExp(`^${text}$`));

    await state('idle');
    await shows(page, '#headline', /^No upgrade of this fleet is known\.$/);
    await shows(page, '#versions', new RegExp(`^${OLD}6 nodes$`));
    await looksWell(page);

    const upgrade = started('upgrade', '--to', NEW);
    await state('running');
    await shows(page, '#headline', new RegExp(`^Upgrade to ${NEW}: `));
    // It pauses before the next batch: the single server is new, its client is not.
    await upgrade.line(/s: shut the server of single down/, SHOWN_MS);
    assert.equal((await fleet.fleet('pause')).code, 0);
    await state('paused');
    await shows(page, '#versions', new RegExp(`^${OLD}5 nodes${NEW}1 node$`));
    await shows(page, '#progress-text', /^2 of 9 steps done$/);
    const steps = await cells(page, '#steps');
    assert.deepEqual(
      steps.slice(0, 3).map(([text, is, group]) => [text, is, group]),
      [
        ['s: shut the server of single down', 'done', 'single'],
        [`s: start ${NEW} for single`, 'done', 'single'],
        [`c3: ${NEW} takes over ${fleet.mountpoint('c3', 'single')}`, 'to come', 'single'],
      ],
    );
    assert.deepEqual(await tabStops(page), [
      ...['Skip to the content', 'Pause updates', 'Group single', 'Group pair'],
      ...['Steps of the upgrade, in their order', 'How long programs waited, the longest first'],
    ]);
    await looksWell(page);
    assert.equal((await fleet.fleet('resume')).code, 0);
    await shows(page, '#headline', new RegExp(`^Upgrade to ${NEW}: .*, since [\\d.]+ m?s\\.$`));
    await until('pauses are listed', async () => (await cells(page, '#pauses')).length > 0, SHOWN_MS);
    if (WRITES) await shows(page, '#headline', /: a: (?:shut|start)/);
    await picture(page, 'fleet');
    assert.equal((await upgrade.exited).code, 0, `${upgrade.tail()}\n${fleet.logs()}`);
    await state('done');
    await shows(
      page,
      '#headline',
      new RegExp(`^Upgrade to ${NEW}: done; the longest pause of a program was `),
    );
    await shows(page, '#versions', new RegExp(`^${NEW}6 nodes$`));
    await shows(page, '#progress-text', /^9 of 9 steps done$/);
    const pauses = await cells(page, '#pauses');
    assert.ok(pauses.some(([, why]) => why === 'takeover of the client'));
    assert.ok(pauses.some(([, why]) => why === 'new server of pair'));
    transcript(upgrade.stdout, fleet.cluster.folder);
    await fleet.stop();
    browser.assertQuiet(url);
  });
});

async function usesKeyboard(page: Page): Promise<void> {
  assert.deepEqual(await tabStops(page), [
    ...['Skip to the content', 'Pause updates', 'Clients of this server, those that are waited for first'],
    'Operations of the last ten seconds, the most frequent first',
    'Clients that this server and those before it have evicted, the newest first',
  ]);
  await page.getByRole('link', { name: 'Skip to the content' }).press('Enter');
  assert.equal(await inPage<string>(page, 'focusedId()'), 'main');
  const button = page.getByRole('button', { name: 'Pause updates' });
  await button.press('Space');
  await shows(page, '#connection', /^Paused$/);
  const held = await page.locator('#headline').textContent();
  assert.equal(await button.getAttribute('aria-pressed'), 'true');
  await button.press('Space');
  await shows(page, '#connection', /^Live$/);
  await until('it goes on', async () => (await inPage(page, "text('#headline')")) !== held, SHOWN_MS);
}

/** What the terminal shows of an upgrade: docs/FLEETS.md has it as this test has seen it, up to times. */
function transcript(lines: readonly string[], folder: string): void {
  const path = join(packageRoot(), 'docs', 'FLEETS.md');
  const page = readFileSync(path, 'utf8');
  const block = /(\n {4}\$ holdfast fleet home\.toml upgrade --to \S+\n)((?: {4}.*\n)+)/;
  const [, , before = ''] = block.exec(page) ?? [];
  const seen = lines.map(
    (line) => `    ${line.replaceAll(new RegExp(`${folder}/mnt-(\\w+)-\\w+`, 'g'), '/mnt/$1')}\n`,
  );
  if (WRITES)
    writeFileSync(
      path,
      page.replace(block, (_, command: string) => `${command}${seen.join('')}`),
    );
  // Clients of one batch end in any order.
  const form = (all: readonly string[]): string[] =>
    all.map((line) => line.replaceAll(/[\d.]+ m?s\b/g, 'N s').replace(/\(client .*\)/, '(client)')).sort();
  const kept = WRITES ? seen : before.split(/(?<=\n)/);
  assert.deepEqual(form(kept), form(seen), 'docs/FLEETS.md is stale: HOLDFAST_PICTURES=write writes it');
}
