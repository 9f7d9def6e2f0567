import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command } from 'commander';
import { commandTree } from '../../../src/cli/command_tree.js';
import { holdfastPage } from '../../../src/cli/man_page.js';

test('text that roff would take for requests and escapes comes out as it is', () => {
  const program = new Command('holdfast').description('A filesystem.');
  program
    .command('first')
    .description(".dots and 'quotes' at the start of a line")
    .argument('<what>', 'a back\\slash, --long and -o, high-level')
    .option('-f, --file <file>', '"quoted"');
  program.command('hidden', { hidden: true }).description('not shown');
  const lines = holdfastPage(commandTree(program), [{ word: 'tls[=on|off]', help: 'words' }], '1.2.3').split(
    '\n',
  );
  const start = lines.indexOf('.SH COMMANDS');
  const end = lines.indexOf('.SH EXIT STATUS');
  assert.deepEqual(lines.slice(start, end), [
    '.SH COMMANDS',
    '.SS "\\fBfirst\\fR [options] <what>"',
    "\\&.dots and 'quotes' at the start of a line.",
    '.TP',
    '\\fIwhat\\fR',
    'A back\\eslash, \\-\\-long and \\-o, high-level',
    '.TP',
    '\\fB\\-f, \\-\\-file\\fR \\fIfile\\fR',
    '"quoted"',
    '.SH MOUNT OPTIONS',
    'The words of mount \\-o, separated by commas.',
    '.TP',
    '\\fBtls[=on|off]\\fR',
    'Words',
  ]);
});
