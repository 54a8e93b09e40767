// Writes docs/reference/campaign.schema.json from the schema of campaign files. Needs a build: npm run build
import { writeFileSync } from 'node:fs';
import { campaignJsonSchema } from '../dist/campaign/read-file.js';

const path = new URL('../docs/reference/campaign.schema.json', import.meta.url);
writeFileSync(path, `${JSON.stringify(campaignJsonSchema(), null, 2)}\n`);
