#include "tests/conformance/random.h"

namespace retrovisor::conformance {

uint64_t Random::integer() {
  switch (pick(8)) {
    case 0: return below(4) - below(4);
    case 1: return below(256);
    case 2: {  // around a power of two, either sign
      const uint64_t v = (uint64_t{1} << pick(64)) + below(3) - 1;
      return chance(50) ? v : ~v + 1;
    }
    case 3: {
      static constexpr uint64_t kBorders[] = {0x7f,       0x80,       0xff,       0x7fff,     0x8000,
                                              0xffff,     0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
                                              uint64_t{1} << 63, UINT64_MAX, 0, 1};
      return of(kBorders) + (chance(30) ? next() << 32 : 0);
    }
    case 4: return next() >> pick(64);
    case 5: return ~(next() >> pick(64));
    case 6: return next() & next() & next();
    default: return next();
  }
}

uint32_t Random::single() {
  const uint32_t sign = static_cast<uint32_t>(next() & 0x80000000);
  const auto low = [&] { return static_cast<uint32_t>(next()); };
  switch (pick(10)) {
    case 0: return sign;
    case 1: return sign | 0x7f800000;
    case 2: return sign | 0x7fc00000 | (low() & 0x3fffff);                   // quiet NaN
    case 3:  // signalling NaN, denormal
      return chance(50) ? sign | 0x7f800001 | (low() & 0x3fffff) : sign | (low() & 0x7fffff);
    case 4: return sign | 0x3f800000;
    case 5: return sign | (0x7f000000 + (low() & 0x7fffff)) | (chance(30) ? 0x7fffff : 0);  // near overflow
    case 6: return sign | (0x00800000 + (low() & 0x1ffffff));                // near underflow
    case 7: return sign | (0x3f800000 + (pick(34) << 23)) | (chance(50) ? low() & 0x7fffff : 0);  // of an integer's size
    default: return sign | (0x38000000 + (low() & 0x0fffffff));
  }
}

uint64_t Random::real() {
  const uint64_t sign = next() & uint64_t{1} << 63;
  constexpr uint64_t kFraction = 0xfffffffffffff;
  switch (pick(10)) {
    case 0: return sign;
    case 1: return sign | 0x7ffull << 52;
    case 2: return sign | 0x7ff8ull << 48 | (next() & kFraction >> 1);
    case 3: return chance(50) ? sign | 0x7ffull << 52 | 1 | (next() & kFraction >> 1) : sign | (next() & kFraction);
    case 4: return sign | 0x3ffull << 52;
    case 5: return sign | 0x7feull << 52 | (next() & kFraction);
    case 6: return sign | ((uint64_t{1} << 52) + (next() & kFraction * 4));
    case 7: return sign | (0x3ffull + pick(66)) << 52 | (chance(50) ? next() & kFraction : 0);
    case 8: return sign | (0x3ffull - 130 + pick(260)) << 52 | (next() & kFraction);  // in and around single's range
    default: return sign | ((0x380ull << 52) + (next() & 0x0fffffffffffffff));
  }
}

Random::Extended Random::extended() {
  const auto sign = static_cast<uint16_t>(next() & 0x8000);
  const auto make = [&](unsigned exponent, uint64_t significand) {
    return Extended{significand, static_cast<uint16_t>(sign | (exponent & 0x7fff))};
  };
  constexpr uint64_t kOne = uint64_t{1} << 63;
  switch (pick(12)) {
    case 0: return make(0, 0);
    case 1: return make(0x7fff, kOne);
    case 2: return make(0x7fff, kOne | kOne >> 1 | next() >> 2);
    case 3: return chance(50) ? make(0x7fff, kOne | 1 | next() >> 2) : make(0, next() >> 1);
    case 4: return make(0x3fff, kOne);
    case 5: return chance(80) ? make(0x7ffe - pick(3), kOne | next()) : make(static_cast<unsigned>(next()), next());
    case 6: return make(pick(4), kOne | next());
    case 7: return make(0x3fff + pick(66), kOne | (chance(50) ? next() : 0));
    case 8: return make(0x3fff - 1100 + pick(2200), kOne | next());
    case 9: return make(0x3fff - 4 + pick(8), kOne | next());
    default: return make(0x3fff - 60 + pick(120), kOne | next());
  }
}

}  // namespace retrovisor::conformance
