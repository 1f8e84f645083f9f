import tseslint from "typescript-eslint";

/** Our packages that a package may import; contracts stands on zod alone. */
const allowed = {
  "shared/contracts": [],
  "shared/telemetry": ["contracts"],
  "shared/sealing": [],
  "shared/broker": ["contracts", "telemetry"],
  "shared/database": ["contracts", "telemetry"],
  "shared/service": ["contracts", "telemetry"],
  "shared/http": ["contracts", "telemetry"],
  "shared/identity": ["contracts", "telemetry"],
  "shared/client": ["contracts", "telemetry"],
  "shared/testing": ["contracts", "telemetry", "broker", "database"],
  "services/auth": ["contracts", "telemetry", "broker", "database", "service", "identity"],
  "services/vm-ops": ["contracts", "telemetry", "broker", "database", "service", "identity"],
  "services/reliability": ["contracts", "telemetry", "broker", "database", "service", "identity"],
  "services/secrets": ["contracts", "telemetry", "broker", "database", "service", "identity", "sealing"],
  "services/gateway": ["contracts", "telemetry", "broker", "service", "identity", "http", "sealing"],
  agent: ["contracts", "telemetry", "broker", "service", "sealing"],
  scripts: ["contracts", "broker", "client", "database", "service"],
};
/** Libraries that belong to one package: everybody else goes through it. */
const owners = {
  amqplib: ["shared/broker"],
  pg: ["shared/database"],
  umzug: ["shared/database"],
  sequelize: ["shared/database", "services/auth", "services/vm-ops", "services/reliability"],
  express: ["shared/http", "services/gateway"],
  opossum: ["services/secrets"],
  jose: ["shared/identity", "shared/sealing", "services/auth"],
  pino: ["shared/telemetry"],
  "prom-client": ["shared/telemetry"],
};

const testFiles = [
  "**/*.test.ts",
  "*/test/**/*.ts",
  "*/*/test/**/*.ts",
  "test/**/*.ts",
  "shared/testing/**/*.ts",
  "bench/**/*.ts",
];

function patternsFor(folder, names) {
  const may = names.length === 0 ? "" : `(?!(${names.join("|")})/)`;
  const own = folder.split("/").at(-1);
  const libraries = Object.entries(owners)
    .filter(([, folders]) => !folders.includes(folder))
    .map(([library, folders]) => ({
      regex: `^${library}(/|$)`,
      message: `only ${folders.join(", ")} may import ${library}`,
    }));
  const zodAlone = {
    regex: "^(?!zod$|zod/|\\.\\.?/|node:)",
    message: "contracts imports zod and nothing else",
  };
  return [
    { regex: `^@muster/${may}`, message: `${folder} may import of ours: ${names.join(", ") || "nothing"}` },
    { regex: `^\\.\\./.*/(services|agent)/(?!${own}/)`, message: "a service never imports another" },
    ...libraries,
    ...(folder === "shared/contracts" ? [zodAlone] : []),
  ];
}

const directions = Object.entries(allowed).map(([folder, names]) => ({
  files: [`${folder}/**/*.ts`],
  ignores: testFiles,
  rules: { "no-restricted-imports": ["error", { patterns: patternsFor(folder, names) }] },
}));

// The generators read what the services declare: their settings, their tables of states.
const everything = ["agent", "auth", "gateway", "reliability", "secrets", "vm-ops", ...allowed.scripts];
directions.push({
  files: ["scripts/src/generate/**/*.ts"],
  rules: { "no-restricted-imports": ["error", { patterns: patternsFor("scripts", everything) }] },
});

const environmentMessage = "settings come in as arguments: only an entry point reads process.env";

export default tseslint.config(
  { ignores: ["**/dist/**", "**/node_modules/**", ".muster/**", "coverage/**"] },
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-console": "error",
      "max-lines": ["error", { max: 400, skipBlankLines: false, skipComments: false }],
      "max-lines-per-function": ["error", { max: 70 }],
      "no-restricted-syntax": [
        "error",
        {
          selector: "MemberExpression[object.name='process'][property.name='env']",
          message: environmentMessage,
        },
      ],
      eqeqeq: ["error", "smart"],
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      // Interpolating a number or a boolean is plain; objects stay refused.
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true, allowNever: true },
      ],
      // Our factories answer records of functions, which are made to be passed on one by one.
      "@typescript-eslint/unbound-method": "off",
      // It does not see what changes while an await or a callback runs.
      "@typescript-eslint/no-unnecessary-condition": "off",
      // Where an index was checked a line above, `!` says so.
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/no-confusing-void-expression": "off",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      // One signature for callers that pass a type of their own (a row, a payload) is worth a parameter used once.
      "@typescript-eslint/no-unnecessary-type-parameters": "off",
      // An async function that does not wait keeps its contract: it rejects, it never throws.
      "@typescript-eslint/require-await": "off",
      // `env["NAME"]` and `a.b`: the compiler's own settings decide.
      "@typescript-eslint/dot-notation": "off",
    },
  },
  ...directions,
  {
    files: ["**/main.ts", "**/migrate.ts", "**/bootstrap.ts", "**/supervisor.ts", "scripts/**/*.ts"],
    rules: { "no-restricted-syntax": "off" },
  },
  {
    files: testFiles,
    rules: {
      "no-restricted-syntax": "off",
      "max-lines": ["error", { max: 600 }],
      "max-lines-per-function": "off",
      "@typescript-eslint/no-unused-expressions": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-argument": "off",
    },
  },
  {
    files: testFiles,
    ignores: ["**/*.test.ts"],
    rules: {
      "no-restricted-syntax": [
        "error",
        {
          selector: "Program > ExpressionStatement > CallExpression[callee.name=/^(before|after)(Each)?$/]",
          message: "mocha runs it for the first test file of a process only: let test files call a function",
        },
      ],
    },
  },
);
