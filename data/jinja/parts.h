// What the files of the Jinja engine share: tokens, the syntax tree, values, and the state of one rendering.
//
// The way of a template: lex.c cuts it into tokens, parse*.c build the tree, scope.c gives every variable its slot,
// run.c executes statements and expression.c evaluates expressions, on values whose behaviour is Python's.
#ifndef DATA_JINJA_PARTS_H
#define DATA_JINJA_PARTS_H

#include "core/map.h"
#include "data/jinja/jinja.h"

typedef struct Run Run;
typedef struct Node Node;
typedef struct Value Value;
typedef struct Activation Activation;
typedef struct Function Function;

// ---- Values: immutable but for namespaces, cyclers, joiners and iterators.

typedef enum ValueType {
  VALUE_MISSING,  // no value: an argument that was not given, a variable that was not set
  VALUE_UNDEFINED,
  VALUE_NONE,
  VALUE_BOOL,
  VALUE_INT,
  VALUE_FLOAT,
  VALUE_STRING,
  VALUE_LIST,
  VALUE_TUPLE,
  VALUE_DICT,
  VALUE_VIEW,  // dict.keys(), values() and items()
  VALUE_RANGE,
  VALUE_ITERATOR,  // a Python generator: it can be iterated once, and has no length
  VALUE_NAMESPACE,
  VALUE_LOOP,
  VALUE_MACRO,
  VALUE_METHOD,
  VALUE_FUNCTION,
  VALUE_CYCLER,
  VALUE_JOINER,
} ValueType;

// UTF-8. The top bit of an origin tells that the byte was printed inside {% generation %}, the others where it came from.
typedef struct String {
  const char *bytes;
  const uint32_t *origins;  // NULL: all of them 0
  size_t length;
  int64_t characters;  // -1: not counted yet
  bool safe;  // markupsafe.Markup
} String;

enum { ORIGIN_GENERATED_BIT = 31 };

typedef struct List {
  Value *items;
  int64_t count, capacity;
  bool is_group;  // the tuple of groupby, whose parts have names
} List;

typedef struct Undefined {
  const char *message;  // NULL: "'name' is undefined"
  const char *name;
} Undefined;

struct Value {
  ValueType type;
  union {
    bool truth;
    int64_t integer;
    double real;
    String *string;
    List *list;  // of a list or a tuple
    struct Dict *dict;  // of a dict or a namespace
    struct View *view;
    struct Range *range;
    struct Iterator *iterator;
    const Undefined *undefined;
    struct Loop *loop;
    struct Macro *macro;
    struct Method *method;
    const Function *function;
    struct Cycler *cycler;
    struct Joiner *joiner;
  } as;
};

typedef struct DictEntry {
  Value key, value;
  uint64_t hash;
} DictEntry;

typedef struct Dict {
  DictEntry *entries;  // [count] in the order of insertion
  int64_t count, capacity;
  int32_t *slots;  // [slot_count] an entry's index + 1, 0: free; NULL while the dict is small
  int64_t slot_count;
} Dict;

typedef enum ViewKind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS } ViewKind;

typedef struct View {
  Dict *dict;
  ViewKind kind;
} View;

typedef struct Range {
  int64_t start, stop, step, count;
} Range;

// Lazy, as Python's generators: an item is computed when it is asked for.
typedef struct Iterator {
  List *list;  // where the items come from,
  struct Iterator *outer;  // or else another iterator
  int64_t position;
  Status (*transform)(Value *item, bool *kept, Run *run, const void *state);  // NULL: the items as they are
  const void *state;
} Iterator;

typedef struct Cycler {
  List *items;
  int64_t position;
} Cycler;

typedef struct Joiner {
  Value separator;
  bool used;
} Joiner;

// The arguments of a call.
typedef struct Keyword {
  const String *name;
  Value value;
} Keyword;

typedef struct Arguments {
  Value *items;
  int count;
  Keyword *keywords;
  int keyword_count;
} Arguments;

// A filter, test, method or global function. `parameters`: their names separated by spaces, "?" behind one that may be left out,
// "/" first where keywords are refused; NULL: the function reads all arguments itself. `given` holds a value for each parameter
// (VALUE_MISSING where it was left out); a filter's or test's value and a method's object is given[0].
enum { PARAMETERS_MOST = 8 };
struct Function {
  const char *name;
  const char *parameters;
  Status (*call)(Value *out, Run *run, Value *given, const Arguments *arguments);
};

typedef struct Method {
  Value object;
  const Function *function;
} Method;

// ---- The syntax tree.

typedef enum NodeType {
  // expressions
  NODE_CONSTANT,
  NODE_NAME,
  NODE_NAMESPACE_NAME,  // the target `ns.x`
  NODE_TUPLE,
  NODE_LIST,
  NODE_DICT,
  NODE_UNARY,
  NODE_BINARY,
  NODE_AND,
  NODE_OR,
  NODE_CONCATENATE,
  NODE_COMPARE,
  NODE_CONDITION,
  NODE_ATTRIBUTE,
  NODE_ITEM,
  NODE_SLICE,
  NODE_CALL,
  NODE_FILTER,
  NODE_TEST,
  // statements
  NODE_TEXT,
  NODE_PRINT,
  NODE_IF,
  NODE_FOR,
  NODE_SET,
  NODE_SET_BLOCK,
  NODE_MACRO,
  NODE_CALL_BLOCK,
  NODE_GENERATION,
  NODE_FILTER_BLOCK,
  NODE_WITH,
  NODE_BREAK,
  NODE_CONTINUE,
} NodeType;

typedef enum Operator {
  OPERATOR_ADD,
  OPERATOR_SUBTRACT,
  OPERATOR_MULTIPLY,
  OPERATOR_DIVIDE,
  OPERATOR_FLOOR_DIVIDE,
  OPERATOR_MODULO,
  OPERATOR_POWER,
  OPERATOR_NOT,
  OPERATOR_NEGATE,
  OPERATOR_POSITIVE,
  OPERATOR_EQUAL,
  OPERATOR_NOT_EQUAL,
  OPERATOR_LESS,
  OPERATOR_LESS_EQUAL,
  OPERATOR_GREATER,
  OPERATOR_GREATER_EQUAL,
  OPERATOR_IN,
  OPERATOR_NOT_IN,
} Operator;

typedef struct NodeList {
  Node **items;
  int count, capacity;
} NodeList;

// Where a variable lies: in the slot of the activation that is `hops` functions out. slot < 0: a name that the template never sets.
typedef struct Place {
  int hops, slot;
} Place;

// What happens to a scope's variables when it is entered.
typedef struct ScopeLoad {
  int slot;
  enum { LOAD_RESOLVE, LOAD_ALIAS, LOAD_UNDEFINED } action;
  const char *name;  // LOAD_RESOLVE: a variable of the caller or a global
  Place alias;  // LOAD_ALIAS: the outer variable whose value it starts with
} ScopeLoad;

typedef struct Scope {
  ScopeLoad *loads;
  int count, capacity;
} Scope;

typedef struct CallArguments {
  NodeList positional;
  NodeList keyword_values;
  const String **keyword_names;  // [keyword_values.count]
  Node *star, *star_star;
} CallArguments;

typedef enum NameUse { NAME_LOAD, NAME_STORE, NAME_PARAMETER, NAME_LOOP_TARGET } NameUse;

typedef struct IfBranch {
  Node *test;  // NULL: else
  NodeList body;
} IfBranch;

// The body of a macro, a call block or a {% generation %} block: a function of its own.
typedef struct MacroBody {
  const char *name;  // NULL: a call block's
  NodeList parameters;  // names
  NodeList defaults;  // of the last parameters
  NodeList body;
  Scope scope;
  int slot_count;
  Place caller, keyword_rest, positional_rest;  // slot < 0: the body does not read it
  bool has_caller_parameter;
} MacroBody;

struct Node {
  NodeType type;
  int line, height;  // height: of the tree of expressions under it
  union {
    Value constant;
    struct {
      const char *name;
      const String *attribute;  // NODE_NAMESPACE_NAME
      NameUse use;
      Place place;
    } name;
    NodeList items;  // NODE_TUPLE, NODE_LIST, NODE_CONCATENATE, NODE_PRINT; NODE_DICT: key, value, key, value, ...
    struct {
      Node *left, *right;
      Operator operator;
    } binary;  // NODE_BINARY, NODE_UNARY (left alone), NODE_AND, NODE_OR
    struct {
      NodeList operands;  // operators.count + 1
      Operator *operators;
    } compare;
    struct {
      Node *test, *then, *otherwise;  // otherwise: NULL without else
    } condition;
    struct {
      Node *object;
      const String *name;
      Node *index;  // NODE_ITEM; NODE_SLICE: index, stop and step, each may be NULL
      Node *stop, *step;
    } access;
    struct {
      Node *object;  // what is called, filtered (NULL: the text of the block) or tested
      const char *name;
      const Function *function;  // NULL: unknown, told when it is reached
      CallArguments arguments;
    } call;
    struct {
      const String *string;
    } text;
    struct {
      IfBranch *branches;
      int count, capacity;
    } choice;
    struct {
      Node *target, *iterable, *filter;
      NodeList body, otherwise;
      Scope scope, filter_scope, otherwise_scope;
      bool recursive, has_loop;
      Place loop;
      int slot_count;  // of a recursive loop, whose body is a function
    } loop;
    struct {
      Node *target, *value;  // value: the expression; of NODE_SET_BLOCK the filter, may be NULL
      NodeList body;
      Scope scope;
    } set;  // NODE_FILTER_BLOCK has no target
    struct {
      NodeList targets, values, body;
      Scope scope;
    } with;
    struct {
      MacroBody *body;
      Place place;
      Node *call;  // NODE_CALL_BLOCK
    } macro;
  } as;
};

struct Jinja {
  Arena arena;
  char *name;
  NodeList body;
  Scope scope;
  int slot_count;
  Map names;  // the variables that are read
  bool has_generation;
};

// ---- lex.c

typedef enum TokenType {
  TOKEN_END,
  TOKEN_DATA,
  TOKEN_BLOCK_BEGIN,
  TOKEN_BLOCK_END,
  TOKEN_PRINT_BEGIN,
  TOKEN_PRINT_END,
  TOKEN_NAME,
  TOKEN_STRING,
  TOKEN_INTEGER,
  TOKEN_FLOAT,
  TOKEN_OPERATOR,  // text holds it
} TokenType;

typedef struct Token {
  TokenType type;
  int line;
  const char *text;  // with a NUL behind it
  size_t length;
  int64_t integer;
  double real;
} Token;

// tokens: [*count], in the template's arena, the last one TOKEN_END.
Status jinja_lex(Token **tokens, int *count, Jinja *jinja, const char *source, size_t length);

// ---- parse.c, parse_expression.c

typedef struct Parser {
  Jinja *jinja;
  const Token *token;  // the present one
  int depth;
} Parser;

enum { PARSE_DEPTH_MOST = 200, EXPRESSION_HEIGHT_MOST = 500 };

Status jinja_parse(Jinja *jinja, const Token *tokens);
Status parser_fail(const Parser *parser, int line, const char *format, ...) PRINTF_LIKE(3, 4);
Node *parser_node(Parser *parser, NodeType type, int line);
void node_list_push(Parser *parser, NodeList *list, Node *node);
bool parser_at(const Parser *parser, const char *operator);
bool parser_at_name(const Parser *parser, const char *name);
bool parser_skip(Parser *parser, const char *operator);
bool parser_skip_name(Parser *parser, const char *name);
Status parser_expect(Parser *parser, const char *operator);
Status parser_expect_name(Parser *parser, const Token **name);
Status parse_expression(Node **out, Parser *parser, bool with_condition);
typedef struct TupleRules {
  bool simple, no_condition, parentheses, namespaces;
  const char *end_name;  // a name that ends the tuple, or NULL
} TupleRules;
Status parse_tuple(Node **out, Parser *parser, TupleRules rules);
Status parse_filter(Node **out, Parser *parser, Node *object, bool start_inline);
const String *compile_string(Jinja *jinja, const char *bytes, size_t length);

// ---- scope.c: Jinja's rules of which variable a name means. Also looks up filters and tests.

Status jinja_resolve(Jinja *jinja);

// ---- One rendering.

typedef struct Macro {
  const MacroBody *body;
  Activation *outer;
} Macro;

struct Activation {  // of a function: the template, a macro, a recursive loop
  Activation *outer;
  Value *slots;
};

typedef struct Builder {  // a growing string, in the rendering's memory
  Run *run;
  char *bytes;
  uint32_t *origins;  // NULL: all 0 so far
  size_t length, capacity;
  JinjaText *sink;  // the final output, whose arrays are grown instead
} Builder;

struct Run {
  const Jinja *jinja;
  Arena arena;
  char *chunk;
  size_t chunk_left, memory;
  int64_t steps, steps_most;
  int depth;
  int line;  // of what is evaluated
  enum { FLOW_NORMAL, FLOW_BREAK, FLOW_CONTINUE } flow;
  const char *exceeded;  // the bound that was reached
  Value variables;  // the caller's
  Activation *activation;
  Builder *output;
  time_t now;
};

enum { RUN_DEPTH_MOST = 2000, RANGE_MOST = 100000 };
#define RUN_STEPS_MOST 100000000
#define RUN_MEMORY_MOST ((size_t)256 << 20)
#define RUN_OUTPUT_MOST ((size_t)64 << 20)

Status run_fail(const Run *run, const char *format, ...) PRINTF_LIKE(2, 3);  // puts NAME:LINE before the message
Status run_check(const Run *run);  // a bound was reached?
void run_charge(Run *run, size_t steps);
void *run_allocate(Run *run, size_t bytes);  // zeroed; never NULL: a reached bound is told by the next run_check
Status run_reserve(Run *run, int64_t count, size_t size);  // refuses before what would be too much
bool run_enter(Run *run);  // one level deeper; false at the bound
void run_leave(Run *run);

// ---- value.c

extern const Value value_none, value_missing;
Value value_bool(bool truth);
Value value_int(int64_t integer);
Value value_float(double real);
Value value_list(List *list);
Value value_tuple(List *list);
Value value_dict(Dict *dict);
Value value_iterator(Run *run, List *list);
Status iterator_next(Value *item, Run *run, Iterator *iterator);  // VALUE_MISSING at the end
Value value_undefined(Run *run, const char *name);
Value value_undefined_hint(Run *run, const char *format, ...) PRINTF_LIKE(2, 3);
Value value_of_string(const String *string);
Value value_text(Run *run, const char *bytes, size_t length);  // copies, of the template's own
Value value_words(Run *run, const char *text);
Value value_from_json(Run *run, const json_t *json, const Map *marks);

const char *value_type_name(Value value);  // Python's
bool value_is_true(Value value);
bool value_is_number(Value value);  // int, float or bool
bool value_is_integer(Value value);  // int or bool
int64_t value_integer(Value value);  // of an integer or a bool
double value_real(Value value);  // of a number
bool value_is_string(Value value, const char *text);
bool value_equal(Run *run, Value a, Value b);  // ==
bool value_same(Value a, Value b);  // `is`
Status value_compare(int *order, Run *run, Value a, Value b, const char *operator);  // <; *order 2: unordered (NaN)
Status value_contains(bool *out, Run *run, Value container, Value item);
Status value_hash(uint64_t *hash, Run *run, Value value);
Status value_length(int64_t *length, Run *run, Value value);
Status value_items(List **out, Run *run, Value value);  // of an iterable; an iterator is used up
bool value_is_iterable(Value value);
bool value_is_callable(Value value);
Status undefined_fail(const Run *run, Value value);

List *list_new(Run *run, int64_t capacity);
void list_push(Run *run, List *list, Value value);
Dict *dict_new(Run *run);
const DictEntry *dict_find(Run *run, const Dict *dict, Value key);  // NULL when it has none (or the key cannot be hashed)
Status dict_set(Run *run, Dict *dict, Value key, Value value);
const Value *dict_get_text(Run *run, const Dict *dict, const char *key);
List *view_items(Run *run, const View *view);
Value range_item(const Range *range, int64_t index);

// ---- string.c: strings with their origins

void builder_begin(Builder *builder, Run *run);
void builder_expect(Builder *builder, size_t length, bool with_origins);  // room for exactly that, behind builder_begin
void builder_bytes(Builder *builder, const char *bytes, size_t length);  // of the template's own
void builder_words(Builder *builder, const char *text);
void builder_byte_of(Builder *builder, char byte, uint32_t origin);
void builder_slice(Builder *builder, const String *string, size_t begin, size_t end);
void builder_string(Builder *builder, const String *string);
void builder_generated(Builder *builder, const String *string);  // as printed by a {% generation %} block
void builder_fill(Builder *builder, const String *fill, int64_t count);
void builder_format(Builder *builder, const char *format, ...) PRINTF_LIKE(2, 3);
Value builder_value(Builder *builder, bool safe);
uint32_t string_origin(const String *string, size_t index);
Value string_slice(Run *run, const String *string, size_t begin, size_t end);  // bytes; keeps `safe`
Value string_mark_safe(Run *run, const String *string, bool safe);
int64_t string_characters(String *string);
size_t string_offset(String *string, int64_t character);  // the byte at which a character begins
int64_t string_index(String *string, size_t offset);  // the character that begins at a byte
int32_t string_point(const String *string, size_t offset, size_t *length);  // the code point there, and its length in bytes
bool string_equal(const String *a, const String *b);
int string_compare(const String *a, const String *b);
bool string_find(size_t *at, const String *string, const String *needle, size_t begin, size_t end);
bool string_find_last(size_t *at, const String *string, const String *needle, size_t begin, size_t end);
bool string_has_at(const String *string, size_t at, const String *part);
Value string_strip(Run *run, const String *string, const String *characters, bool left, bool right);
Value string_escape(Run *run, const String *string);  // markupsafe.escape
Value string_replace(Run *run, const String *string, const String *old, const String *new, int64_t most);
List *string_lines(Run *run, const String *string, bool keep_ends);
List *string_list(Run *run, String *string);  // its characters

// ---- unicode.c: Python's classes and cases of characters

bool point_is_space(int32_t point);
bool point_is_line_end(int32_t point);
bool point_is_printable(int32_t point);
bool point_is_alphabetic(int32_t point);
bool point_is_decimal(int32_t point);
bool point_is_digit(int32_t point);
bool point_is_numeric(int32_t point);
bool point_is_lower(int32_t point);
bool point_is_upper(int32_t point);
bool point_is_title(int32_t point);
bool point_is_word(int32_t point);
typedef enum LetterCase { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_FOLD } LetterCase;
void builder_cased(Builder *builder, const String *string, size_t begin, size_t end, LetterCase letter_case);
int encode_point(char out[4], int32_t point);

// ---- text.c: str(), repr(), json.dumps() and numbers as text

void builder_str(Builder *builder, Value value);
void builder_repr(Builder *builder, Value value);
Status value_str(Value *out, Run *run, Value value);  // a string is given back as it is
Status value_soft_str(Value *out, Run *run, Value value);  // as value_str; keeps `safe`
typedef struct JsonStyle {
  bool ascii, sort_keys;
  const String *indent, *item_separator, *key_separator;  // indent NULL: one line
} JsonStyle;
Status value_json(Value *out, Run *run, Value value, const JsonStyle *style);
bool parse_integer(int64_t *out, const String *string, int64_t base);  // int(str, base)
bool parse_float(double *out, const String *string);  // float(str)

// ---- format.c: str.format(), the % operator and format specifications

Status format_percent(Value *out, Run *run, const String *format, Value values);
Status format_braces(Value *out, Run *run, const String *format, const Arguments *arguments, Value mapping);

// ---- expression.c, access.c

Status evaluate(Value *out, Run *run, const Node *node);
Status evaluate_call(Value *out, Run *run, const Node *node, const Value *caller);  // caller: a call block's, or NULL
Status evaluate_filter(Value *out, Run *run, const Node *node, Value text);  // text: of a block whose filter has no object
Status call_value(Value *out, Run *run, Value callee, const Arguments *arguments);
Status call_function(Value *out, Run *run, const Function *function, const Value *object, const Arguments *arguments);
Status operate(Value *out, Run *run, Operator operator, Value a, Value b);
Status get_attribute(Value *out, Run *run, Value object, const String *name);  // object.name
Status get_item(Value *out, Run *run, Value object, Value key);  // object[key]
Status get_slice(Value *out, Run *run, Value object, Value start, Value stop, Value step);
Value value_attribute(Run *run, Value object, const String *name);  // Python's attribute alone; VALUE_MISSING when it has none

// ---- run.c

Status assign_target(Run *run, const Node *target, Value value);
Value *place_value(const Run *run, Place place);
Status call_macro(Value *out, Run *run, const Macro *macro, const Arguments *arguments);
Value loop_attribute(Run *run, struct Loop *loop, const char *name, Status *status);  // VALUE_MISSING when it has none
Status call_loop(Value *out, Run *run, struct Loop *loop, const Arguments *arguments);
void builder_loop(Builder *builder, struct Loop *loop);  // its repr()
Status loop_length(int64_t *length, Run *run, struct Loop *loop);

// ---- The tables.

const Function *find_filter(const char *name);
const Function *find_test(const char *name);
const char *known_but_refused_filter(const char *name);  // why, or NULL
const Function *find_method(Value object, const char *name);
const Function *find_global(const char *name);
extern const Function loop_cycle, loop_changed, function_dict;
extern const Function text_filters[], list_filters[], value_filters[];  // each ends with a NULL name
Status method_dict_fromkeys(Value *out, Run *run, Value *given, const Arguments *arguments);

#endif
