import { serveParent } from "../harness/child.ts";
import { loadHttp, type HttpLoad } from "./http-load.ts";

serveParent({ load: (argument) => loadHttp(argument as HttpLoad) });
