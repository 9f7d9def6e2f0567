import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BackgroundFailure, startInBackground } from '../../../mount/daemonize.js';
import { until } from '../../fixtures/until.js';

const MODULE = fileURLToPath(new URL('../../../mount/daemonize.js', import.meta.url));

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'holdfast-background-'));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

/** A script that does what `body` says with `reporter`. */
function script(where: string, body: string): string {
  const path = join(where, 'child.mjs');
  const head = `import { backgroundReporter } from ${JSON.stringify(MODULE)};\nconst reporter = backgroundReporter();\n`;
  writeFileSync(path, head + body);
  return path;
}

async function failure(promise: Promise<unknown>): Promise<{ message: string; exitCode: number }> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof BackgroundFailure, String(error));
    return { message: error.message, exitCode: error.exitCode };
  }
  throw new Error('it did not fail');
}

test('the starter returns when the child is ready, and the child lives on, in / and in a session of its own', async (t) => {
  const where = folder(t);
  const logPath = join(where, 'log', 'child.log');
  const argv = [
    script(
      where,
      "console.log('in the log', process.argv[2]);\nreporter.ready();\nsetInterval(() => {}, 1000);",
    ),
    'word',
  ];
  const started = await startInBackground({ argv, logPath });
  t.after(async () => {
    process.kill(started.pid, 'SIGKILL');
    await until('the child is gone', () => isGone(started.pid));
  });
  assert.equal(started.logPath, logPath);
  assert.equal(readFileSync(logPath, 'utf8'), 'in the log word\n');
  assert.equal(readlinkSync(`/proc/${started.pid}/cwd`), '/');
  const session = readFileSync(`/proc/${started.pid}/stat`, 'latin1').split(') ')[1]?.split(' ')[3];
  assert.equal(Number(session), started.pid);
});

function isGone(pid: number): boolean {
  try {
    return /State:\s*Z/.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return true;
  }
}

test("a child that cannot become ready says why, and its words and status are the starter's", async (t) => {
  const where = folder(t);
  const argv = [script(where, "reporter.failed('no server answers at h:1', 3);\nprocess.exit(3);")];
  assert.deepEqual(await failure(startInBackground({ argv, logPath: join(where, 'log') })), {
    message: 'no server answers at h:1',
    exitCode: 3,
  });
});

test('a child that ends without a word is a failure that names its end and its log', async (t) => {
  const where = folder(t);
  const logPath = join(where, 'log');
  const crash = [script(where, "throw new Error('a bug');")];
  assert.deepEqual(await failure(startInBackground({ argv: crash, logPath })), {
    message: `the background process ended before it was ready (status 1); see ${logPath}`,
    exitCode: 1,
  });
  assert.match(readFileSync(logPath, 'utf8'), /a bug/);
  const killed = [script(where, "process.kill(process.pid, 'SIGKILL');\nsetInterval(() => {}, 1000);")];
  assert.match((await failure(startInBackground({ argv: killed, logPath }))).message, /\(SIGKILL\)/);
});

test('children of the background process are not asked to report', async (t) => {
  const where = folder(t);
  const argv = [
    script(
      where,
      "import { execFileSync } from 'node:child_process';\nconst env = execFileSync('env').toString();\nreporter.failed(String(env.includes('HOLDFAST_REPORT')), 1);",
    ),
  ];
  assert.equal((await failure(startInBackground({ argv, logPath: join(where, 'log') }))).message, 'false');
});

test('where the log folder cannot be made, the log goes to the folder for temporary files', async (t) => {
  const where = folder(t);
  writeFileSync(join(where, 'file'), '');
  const argv = [script(where, 'reporter.ready();')];
  const started = await startInBackground({ argv, logPath: join(where, 'file', `x${process.pid}.log`) });
  t.after(() => rmSync(started.logPath));
  assert.equal(started.logPath, join(tmpdir(), `holdfast-${process.getuid?.()}-x${process.pid}.log`));
});
