/** How a command fails: one line, whatever a peer or a file name has put into the message. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { CliError, describeFailure } from '../../../src/cli/failure.js';

test('a failure is one line that moves no cursor', () => {
  const said = 'CONNECT: \x1b[2J\x1b]0;pwn\x07gone\r\nholdfast: all is well\n';
  const line = 'CONNECT: \ufffd[2J\ufffd]0;pwn\ufffdgone  holdfast: all is well';
  assert.deepEqual(
    [new FsError('EACCES', said), new CliError(said, 3), said].map(describeFailure),
    [1, 3, 1].map((exitCode) => ({ line, exitCode })),
  );
});
