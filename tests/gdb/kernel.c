// A guest to be debugged at source level: starts in 64-bit mode at its first byte, works a little, ends the machine.

struct node {
  int value;
  struct node* next;
};

static struct node nodes[8];
static struct node* head;
int total;
struct {
  unsigned char bytes[4];
  int victim;
} box = {{0}, 1234};
unsigned char trail[64];

__asm__(
    ".section .text.start, \"ax\"\n"
    ".globl start\n"
    "start:\n"
    "  mov $0x90000, %esp\n"
    "  call main\n"
    "  mov $0, %eax\n"
    "  out %al, $0xf4\n"
    "0: jmp 0b\n");

int square(int x) {
  int result = x * x;
  return result;
}

void push(int value, struct node* node) {
  node->value = value;
  node->next = head;
  head = node;
}

int sum(const struct node* node) {
  int s = 0;
  while (node) {
    s += square(node->value);
    node = node->next;
  }
  return s;
}

// Writes one byte too many: the victim, which lies behind, is hit.
void stray(unsigned char* bytes, int count) {
  for (int i = 0; i <= count; ++i) bytes[i] = 0x5a;
}

int twice(int x) { return 2 * x; }

int main(void) {
  for (int i = 0; i < 8; ++i) {
    push(i + 1, &nodes[i]);
  }
  total = sum(head);
  stray(box.bytes, 4);
  for (int i = 0; i < 20; ++i) {
    trail[i] = (unsigned char)twice(i);
  }
  if (box.victim != 1234) {
    total = -1;
  }
  return total;
}
