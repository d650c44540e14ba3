#include "apps/apps.h"

int main(int argc, char** argv) {
  return pith::run_command_line(argc, argv);
}
