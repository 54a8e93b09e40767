// Makes a picture of a terminal's output:
//   FORCE_COLOR=1 ./demo --seed 7 | tee /dev/tty | node scripts/picture.mjs './demo --seed 7' > docs/images/demo.svg
import { readFileSync } from 'node:fs';
import { terminalSvg } from '../dist/report/terminal-svg.js';

const [command, title = 'A run of ninelives in a terminal'] = process.argv.slice(2);
process.stdout.write(terminalSvg(readFileSync(0, 'utf8'), command === undefined ? { title } : { title, command }));
