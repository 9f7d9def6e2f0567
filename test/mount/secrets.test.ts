/** The secrets of keys stay where they belong: in key files, on the meta device, and in the memory of those who use them. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { type Finished, run } from '../fixtures/child.js';
import { type Cluster, prepareCluster } from '../fixtures/cluster.js';
import { type Host, Network } from '../fixtures/hosts.js';
import { thisTree } from '../fixtures/installed_tree.js';

const METRICS_PORT = 9464;

interface Site {
  readonly cluster: Cluster;
  readonly server: Host;
  readonly client: Host;
}

async function site(t: TestContext): Promise<Site> {
  const network = await Network.make();
  const cluster = prepareCluster(t);
  cluster.whenEnded(() => network.remove());
  cluster.env.DEBUG = 'holdfast*';
  const [server, client] = [await network.addHost('srv'), await network.addHost('cli')];
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'test']);
  const metrics = ['--metrics', `${server.address}:${METRICS_PORT}`];
  await cluster.serve({ on: server, listen: `${server.address}:0`, args: metrics });
  return { cluster, server, client };
}

/** As whoever looks for it finds it. */
function formsOf(keyFile: string): readonly Buffer[] {
  const text = /^secret (.*)$/m.exec(readFileSync(keyFile, 'utf8'))?.[1] ?? '';
  const secret = Buffer.from(text, 'base64');
  assert.equal(secret.length, 32);
  const hex = secret.toString('hex');
  // Base64 of more than the secret alone has other characters at both ends.
  const inner = [0, 1, 2].map((shift) => {
    const shifted = Buffer.concat([Buffer.alloc(shift), secret]).toString('base64');
    return shifted.slice(4, 40);
  });
  return [secret, ...[hex, hex.toUpperCase(), ...inner, text].map((form) => Buffer.from(form))];
}

function assertHasNone(what: string, content: Buffer | string, forms: readonly Buffer[]): void {
  const bytes = Buffer.from(content);
  for (const form of forms) assert.ok(!bytes.includes(form), `a secret stands in ${what}`);
}

/** Arguments and surroundings of all processes of this machine. */
function* ofProcesses(): Generator<readonly [what: string, content: Buffer]> {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const name of ['cmdline', 'environ']) {
      try {
        yield [`/proc/${pid}/${name}`, readFileSync(`/proc/${pid}/${name}`)];
      } catch {
        // It is gone.
      }
    }
  }
}

test('no argument, surrounding, log, status, metric or error text has a secret', async (t) => {
  const { cluster, server, client } = await site(t);
  const key = await cluster.makeKey('web', ['--no-root-squash', '--admin']);
  const forms = [...formsOf(key)];
  const mount = await cluster.addMount([`key=${key}`], undefined, client);
  const agent = cluster.agent();
  await agent.writeFile('f', 'text');
  for (const [what, content] of ofProcesses()) assertHasNone(what, content, forms);

  const on = async (host: Host, args: readonly string[]): Promise<Finished> => {
    const [command = '', ...rest] = [...host.command, process.execPath, ...args];
    return run(command, rest, { env: cluster.env });
  };
  const { main } = thisTree();
  const { address } = cluster;
  const outputs: (readonly [what: string, done: Finished])[] = [
    ['status', await on(client, [main, 'status', address, '--json', '--key', key])],
    ['status of the mount', await cluster.cli(['status', mount.dir, '--json'])],
    ['access list', await on(client, [main, 'access', 'list', '--json', '--server', address, '--key', key])],
    [
      'metrics',
      await on(server, [
        '-e',
        `fetch('http://${server.address}:${METRICS_PORT}/metrics').then((got) => got.text()).then((text) => console.log(text))`,
      ]),
    ],
  ];
  for (const [what, done] of outputs) assert.equal(done.code, 0, `${what}: ${done.stderr}`);
  assert.match(outputs.at(-1)?.[1].stdout ?? '', /holdfast_/);

  // A secret that is wrong, one of a key that the server does not know, and a file whose lines are mixed up.
  const whole = readFileSync(key, 'utf8');
  const secret = /^secret (.*)$/m.exec(whole)?.[1] ?? '';
  const wrong = Buffer.from(Buffer.from(secret, 'base64').map((byte) => byte ^ 1)).toString('base64');
  const bad = join(cluster.folder, 'bad.key');
  for (const text of [
    whole.replace(secret, wrong),
    whole.replace(/^id .*$/m, 'id 0123456789abcdef'),
    whole.replace('holdfast-key 1', `holdfast-key ${secret}`),
    whole.replace(secret, secret.slice(1)),
  ]) {
    writeFileSync(bad, text, { mode: 0o600 });
    const done = await on(client, [main, 'mount', '-o', `key=${bad}`, address, cluster.folder]);
    assert.notEqual(done.code, 0);
    outputs.push(['a mount that was refused', done]);
  }
  forms.push(Buffer.from(wrong));
  const rotated = await cluster.cli([
    'access',
    'rotate',
    'web',
    '--server',
    cluster.admin,
    '--output',
    join(cluster.folder, 'new.key'),
  ]);
  outputs.push(['access rotate', rotated]);
  assert.equal(rotated.code, 0, rotated.stderr);
  forms.push(...formsOf(join(cluster.folder, 'new.key')));

  for (const [what, { stdout, stderr }] of outputs) assertHasNone(what, `${stdout}\n${stderr}`, forms);
  for (const child of [cluster.server.child, mount.child]) {
    assert.ok(
      child.stderr.some((line) => line.includes('holdfast:')),
      `${child.name} logs nothing`,
    );
    assertHasNone(`the output of ${child.name}`, [...child.stdout, ...child.stderr].join('\n'), forms);
  }
  // They are where they are looked for.
  assert.ok(readFileSync(key).includes(formsOf(key).at(-1) as Buffer));
});

/** Starts a server that may leave a core, ends it with SIGSEGV, and says whether it left one. */
const CRASHES = `
import os, resource, signal, sys, time
folder, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
out, inp = os.pipe()
pid = os.fork()
if pid == 0:
    os.chdir(folder)
    os.dup2(inp, 1)
    os.execvp(command[0], command)
os.close(inp)
said = b''
while b'serving' not in said and b'active' not in said:
    some = os.read(out, 4096)
    if not some: break
    said += some
os.kill(pid, signal.SIGSEGV)
_, status = os.waitpid(pid, 0)
print(os.WTERMSIG(status), os.WCOREDUMP(status), said.decode())
`;

test('a crash leaves no core file, unless the operator wants one', async (t) => {
  const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'utf8').trim();
  const cluster = prepareCluster(t);
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'test']);
  const crash = async (env: NodeJS.ProcessEnv): Promise<string> => {
    const command = [
      process.execPath,
      thisTree().main,
      'serve',
      ...cluster.deviceArgs,
      '--listen',
      '127.0.0.1:0',
    ];
    const done = await run('python3', ['-c', CRASHES, cluster.folder, ...command], {
      env: { ...cluster.env, ...env },
    });
    assert.equal(done.code, 0, done.stderr);
    return done.stdout;
  };
  const cores = (): string[] => readdirSync(cluster.folder).filter((name) => /^core/.test(name));
  assert.match(await crash({}), /^11 False /);
  assert.deepEqual(cores(), []);
  // Else the core would lie anywhere on this machine, or a program would get it.
  if (!/^core[^/]*$/.test(pattern)) {
    t.diagnostic(`core_pattern is ${pattern}: no core is made on purpose`);
    return;
  }
  assert.match(await crash({ HOLDFAST_CORE: '1' }), /^11 True /);
  assert.equal(cores().length, 1);
  assert.ok(existsSync(join(cluster.folder, cores()[0] ?? '')));
});
