/**
 * Monitoring as an operator sets it up: both sides export what the dashboard, the alerts and docs/MONITORING.md name, and promtool
 * finds nothing wrong.
 */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { type Agent, O } from '../fixtures/agent.js';
import { run } from '../fixtures/child.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { until } from '../fixtures/until.js';
import { freePort, lacks } from './programs.js';

const folder = join(packageRoot(), 'mount', 'monitoring');
const alerts = join(folder, 'alerts.yml');

interface Texts {
  readonly server: string;
  readonly client: string;
}

/** Over HTTP. @param socket path of a Unix socket. */
function fetched(where: { readonly port: number } | { readonly socketPath: string }): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get({ ...where, host: '127.0.0.1', path: '/metrics' }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
    });
    request.on('error', reject);
  });
}

async function work(agent: Agent, fails = true): Promise<void> {
  await agent.writeFile('f', 'x'.repeat(100_000));
  const fd = await agent.open('f', O.RDWR);
  await agent.pread(fd, 0, 4096);
  await agent.fsync(fd);
  if (fails) await assert.rejects(agent.rmdir('full'), { code: 'ENOTEMPTY' });
}

/** Value of the line with this name and these labels; NaN: there is none. */
function valueIn(text: string, line: string): number {
  const found = text.split('\n').find((one) => one.startsWith(`${line} `));
  return found === undefined ? Number.NaN : Number(found.slice(line.length + 1));
}

/** Names in queries, and the values of their labels that are written out. */
function namesIn(queries: string): string[] {
  return [...new Set(queries.match(/\bholdfast_[a-z_]+/g))];
}

describe('monitoring', () => {
  test('both sides export what the dashboard and the alerts name', async (t) => {
    const port = await freePort();
    const socketPath = join(tmpdir(), `holdfast-metrics-${process.pid}.sock`);
    const cluster = await startCluster(t, {
      serveArgs: ['--metrics', String(port)],
      mountOptions: [`metrics=unix:${socketPath}`],
    });
    const agent = cluster.agent(0);
    await agent.mkdir('full');
    await agent.writeFile('full/file', 'x');
    await work(agent);
    await cluster.upgrade();
    await work(agent);
    const texts: Texts = { server: await fetched({ port }), client: await fetched({ socketPath }) };

    const { client, server } = texts;
    assert.ok(valueIn(client, 'holdfast_fuse_seconds_count{operation="FSYNC"}') >= 2, client);
    assert.equal(valueIn(client, 'holdfast_client_pause_seconds_count'), 1, 'an upgrade is one pause');
    const longest = valueIn(client, 'holdfast_client_longest_pause_seconds');
    assert.ok(longest > 0 && longest < 30, `${longest}`);
    assert.ok(valueIn(client, 'holdfast_fuse_errors_total{operation="RMDIR",code="ENOTEMPTY"}') === 2);
    assert.equal(valueIn(client, 'holdfast_client_drain_seconds_count'), 1);
    assert.ok(valueIn(client, 'holdfast_client_bytes_total{direction="write"}') >= 200_000, client);
    assert.ok(valueIn(server, 'holdfast_server_rpc_seconds_count{operation="WRITE"}') >= 1, server);
    assert.ok(valueIn(server, 'holdfast_storage_commit_seconds_count') >= 1, server);
    assert.equal(valueIn(server, 'holdfast_server_state{state="active"}'), 1);

    const all = `${client}\n${server}`;
    const dashboard = JSON.parse(readFileSync(join(folder, 'grafana.json'), 'utf8')) as {
      readonly panels: readonly { readonly targets?: readonly { readonly expr: string }[] }[];
    };
    const exprs = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
    assert.ok(exprs.length > 20);
    const queries = [...exprs, readFileSync(alerts, 'utf8')].join('\n');
    const missing = namesIn(queries).filter((name) => !new RegExp(`^${name}[{ ]`, 'm').test(all));
    // Only a server that has failed a request has its family of errors.
    assert.deepEqual(
      missing.filter((name) => name !== 'holdfast_server_rpc_errors_total'),
      [],
    );
    for (const [pair] of queries.matchAll(/\b(?:le|result|cause)!?="[^"$]+"/g)) {
      assert.ok(all.includes(pair.replace('!=', '=')), `no line has ${pair}`);
    }
    for (const [what, text] of Object.entries(texts)) {
      const families = [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name = '']) => name);
      assert.deepEqual(
        families.filter((name) => !name.startsWith('holdfast_')),
        [],
        what,
      );
    }
    await shownByCommand(cluster, texts);
    await checkedByPromtool(texts);
    const [mount] = cluster.mounts;
    await agent.dies('SIGKILL');
    if (mount !== undefined) await cluster.umount(mount);
    assert.ok(!existsSync(socketPath), 'the socket goes with the mount');
  });

  test('every command of docs/MONITORING.md that only looks does what it says', async (t) => {
    const cluster = await startCluster(t);
    const agent = cluster.agent(0);
    await work(agent, false);
    const page = readFileSync(join(packageRoot(), 'docs', 'MONITORING.md'), 'utf8');
    const lines = [...page.matchAll(/^ {4}holdfast ((?:metrics|top|status) .+)$/gm)].map(
      ([, line = '']) => line,
    );
    assert.ok(lines.length >= 6, lines.join());
    const dir = cluster.mounts[0]?.dir ?? '';
    for (const line of lines) {
      const words = line
        .split(' ')
        .map((word) => (word === '/mnt/home' ? dir : word === 'home' ? cluster.admin : word));
      const shown = await cluster.cliOk(words);
      if (words.includes('--json')) assert.equal(typeof JSON.parse(shown), 'object', line);
      else assert.match(shown, /holdfast_build_info|operations\/s|INODE|^no (?:locks|opens)/, line);
    }
  });

  test('the process that takes a mount over takes its address over too', async (t) => {
    const port = await freePort();
    const cluster = await startCluster(t, { mountOptions: [`metrics=${port}`] });
    const before = await fetched({ port });
    assert.equal(valueIn(before, 'holdfast_client_takeovers_total'), 0);
    const [mount] = cluster.mounts;
    await cluster.cliOk(['takeover', mount?.dir ?? '']);
    await until('the next process serves metrics', async () => {
      const text = await fetched({ port }).catch(() => '');
      return valueIn(text, 'holdfast_client_takeovers_total') === 1;
    });
  });

  test('the rules are valid', { skip: lacks('promtool', 'prometheus') }, async () => {
    const done = await run('promtool', ['check', 'rules', alerts]);
    assert.deepEqual([done.code, /(\d+) rules found/.exec(done.stdout)?.[1]], [0, '12'], done.stderr);
  });
});

async function shownByCommand(cluster: Cluster, { client, server }: Texts): Promise<void> {
  const names = (text: string): string[] =>
    [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name = '']) => name);
  const [mount] = cluster.mounts;
  assert.deepEqual(names(await cluster.cliOk(['metrics', mount?.dir ?? ''])), names(client));
  assert.deepEqual(names(await cluster.cliOk(['metrics', cluster.admin])), names(server));
}

/** Exposition text, as Prometheus itself judges it. */
async function checkedByPromtool(texts: Texts): Promise<void> {
  if (lacks('promtool', 'prometheus') !== false) return;
  for (const [side, text] of Object.entries(texts)) {
    const done = await run('promtool', ['check', 'metrics'], { input: text });
    assert.deepEqual([done.code, done.stdout, done.stderr], [0, '', ''], side);
  }
}
