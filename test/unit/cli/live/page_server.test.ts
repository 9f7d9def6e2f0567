/** How a live page is served: to whom, what else it refuses, and what readers can take of the process. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { PageKey } from '../../../../src/cli/live/page_key.js';
import {
  LATE_EVENTS_MAX,
  PageServer,
  type PageServerOptions,
  STREAMS_MAX,
} from '../../../../src/cli/live/page_server.js';
import type { Timer } from '../../../../src/runtime/ports.js';
import { until } from '../../../fixtures/until.js';

const KEY = 'a-key-that-nobody-guesses';

/** Timers that a test lets run out. */
class HandTimers {
  readonly #armed = new Map<Timer, () => void>();

  after(_ms: number, fn: () => void): Timer {
    const timer = { cancel: () => void this.#armed.delete(timer) };
    this.#armed.set(timer, fn);
    return timer;
  }

  soon(fn: () => void): void {
    setImmediate(fn);
  }

  runOut(): void {
    const due = [...this.#armed.values()];
    this.#armed.clear();
    for (const fn of due) fn();
  }
}

interface Served {
  readonly pages: PageServer;
  readonly port: number;
  readonly timers: HandTimers;
}

async function served(t: TestContext, options: Partial<PageServerOptions> = {}): Promise<Served> {
  const timers = new HandTimers();
  const file = { type: 'text/html; charset=utf-8', content: Buffer.from('<!doctype html>') };
  const pages = new PageServer({
    timers,
    files: { byPath: new Map([['/', file]]), digest: 'd' },
    key: undefined,
    source: { view: () => ({ text: 'one\ntwo </script>' }) },
    ...options,
  });
  pages.http.listen(0, '127.0.0.1');
  await once(pages.http, 'listening');
  t.after(() => {
    pages.close();
    pages.http.closeAllConnections();
  });
  return { pages, port: (pages.http.address() as AddressInfo).port, timers };
}

/** The answer, when its headers have come. */
function asked(
  { port }: Served,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path, method, headers, agent: false }, resolve);
    sent.once('error', reject);
    sent.end();
  });
}

async function statusOf(...args: Parameters<typeof asked>): Promise<number | undefined> {
  const answer = await asked(...args);
  answer.destroy();
  return answer.statusCode;
}

function basic(name: string, password: string): Record<string, string> {
  return { authorization: `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}` };
}

test('a page is read, with headers that let nothing else into it', async (t) => {
  const page = await served(t);
  const answer = await asked(page, '/');
  assert.equal(answer.statusCode, 200);
  const { headers } = answer;
  assert.match(
    headers['content-security-policy']?.toString() ?? '',
    /^default-src 'none'; script-src 'self';/,
  );
  assert.deepEqual(
    [headers['x-content-type-options'], headers['cache-control'], headers['referrer-policy']],
    ['nosniff', 'no-store', 'no-referrer'],
  );
  answer.resume();
  assert.deepEqual(
    [
      await statusOf(page, '/', {}, 'POST'),
      await statusOf(page, '/', {}, 'HEAD'),
      await statusOf(page, '/../package.json'),
      await statusOf(page, '/?anything'),
    ],
    [405, 405, 404, 200],
  );
});

test('without a key, a name that somebody on the network has chosen does not reach the page', async (t) => {
  const page = await served(t);
  const hosts = ['evil.example:80', 'localhost.evil.example', '127.0.0.1.evil.example', 'localhost:1:2'];
  assert.deepEqual(
    await Promise.all(hosts.map((host) => statusOf(page, '/', { host }))),
    hosts.map(() => 403),
  );
  const own = ['localhost', 'LOCALHOST:9999', '127.0.0.1:1', '[::1]:2', '192.0.2.7'];
  assert.deepEqual(
    await Promise.all(own.map((host) => statusOf(page, '/', { host }))),
    own.map(() => 200),
  );
});

test('with a key, nothing is read without it', async (t) => {
  const page = await served(t, { key: new PageKey(KEY) });
  const wrong = [
    {},
    basic('x', ''),
    basic('x', KEY.slice(1)),
    basic(KEY, 'x'),
    { authorization: `Bearer ${KEY}` },
    { authorization: 'Basic' },
    { authorization: `Basic ${KEY}` },
  ];
  for (const path of ['/', '/events', '/nothing']) {
    assert.deepEqual(
      await Promise.all(wrong.map((headers) => statusOf(page, path, headers))),
      wrong.map(() => 401),
    );
  }
  const refused = await asked(page, '/');
  assert.equal(refused.headers['www-authenticate'], 'Basic realm="Holdfast", charset="UTF-8"');
  refused.resume();
  assert.equal(await statusOf(page, '/', { host: 'server.example', ...basic('anybody', KEY) }), 200);
});

test('an event is one line, whatever is in it', async (t) => {
  const page = await served(t);
  const answer = await asked(page, '/events');
  const [chunk] = (await once(answer, 'data')) as [Buffer];
  assert.equal(chunk.toString(), 'data: {"files":"d","view":{"text":"one\\ntwo </script>"}}\n\n');
  answer.destroy();
});

test('the page of another site does not read events', async (t) => {
  const page = await served(t);
  const sites = ['cross-site', 'same-site', 'same-origin', 'none'];
  assert.deepEqual(
    await Promise.all(sites.map((site) => statusOf(page, '/events', { 'sec-fetch-site': site }))),
    [403, 403, 200, 200],
  );
});

test('so many pages are open at most, and one that is closed makes room', async (t) => {
  const page = await served(t);
  const open = await Promise.all(Array.from({ length: STREAMS_MAX }, () => asked(page, '/events')));
  assert.deepEqual([...new Set(open.map(({ statusCode }) => statusCode))], [200]);
  assert.equal(await statusOf(page, '/events'), 503);
  open[0]?.destroy();
  await until('there is room', () => page.pages.readers < STREAMS_MAX);
  assert.equal(await statusOf(page, '/events'), 200);
  for (const one of open) one.destroy();
});

test('a reader that takes nothing costs one event, and is ended', async (t) => {
  const large = 'x'.repeat(4 << 20);
  let views = 0;
  const view = (): object => {
    views += 1;
    return { large };
  };
  const page = await served(t, { source: { view } });
  const socket = connect(page.port, '127.0.0.1');
  t.after(() => socket.destroy());
  socket.pause();
  socket.write('GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n');
  await until('it reads', () => page.pages.readers === 1);
  const before = process.memoryUsage().rss;
  for (let count = 1; count < LATE_EVENTS_MAX; count++) page.timers.runOut();
  assert.equal(page.pages.readers, 1);
  const grown = process.memoryUsage().rss - before;
  assert.ok(grown < 10 * large.length, `${grown} bytes for ${views} events of ${large.length}`);
  page.timers.runOut();
  await until('it is ended', () => page.pages.readers === 0);
});

test('nothing is made while nobody reads', async (t) => {
  let views = 0;
  const watched: boolean[] = [];
  const source = {
    view: () => {
      views += 1;
      return {};
    },
    watched: (isWatched: boolean) => watched.push(isWatched),
  };
  const page = await served(t, { source });
  page.pages.changed();
  page.timers.runOut();
  assert.deepEqual([views, watched], [0, []]);
  const [a, b] = [await asked(page, '/events'), await asked(page, '/events')];
  assert.deepEqual([views, watched], [1, [true]], 'who comes right after another one gets the same view');
  page.pages.changed();
  page.pages.changed();
  page.timers.runOut();
  assert.equal(views, 3, 'one view for both readers and all changes, and one because a second is over');
  a.destroy();
  b.destroy();
  await until('nobody reads', () => page.pages.readers === 0);
  assert.deepEqual(watched, [true, false]);
});

test('the end of the process ends the events, after the last of them', async (t) => {
  let state = 'active';
  const page = await served(t, { source: { view: () => ({ state }) } });
  const answer = await asked(page, '/events');
  let text = '';
  answer.setEncoding('utf8').on('data', (more: string) => {
    text += more;
  });
  const ended = once(answer, 'end');
  state = 'stopped';
  page.pages.close();
  await ended;
  assert.match(text, /"active"[\s\S]*"stopped"[^"]*\n\n$/);
});
