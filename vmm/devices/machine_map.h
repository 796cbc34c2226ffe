// Where things are in the machine: I/O ports, MMIO addresses and interrupt lines. Shared by the devices and by the tables
// (ACPI) that describe them to the guest. Part of the machine model: a change raises kMachineModelVersion.
#pragma once

#include <cstdint>

namespace retrovisor::machine_map {

// MMIO.
inline constexpr uint64_t kLocalApicBase = 0xfee00000;  // one page; each vCPU sees its own (SDM 3A 10.4.1)
inline constexpr uint64_t kLocalApicSize = 0x1000;
inline constexpr uint64_t kIoApicBase = 0xfec00000;     // 82093AA data sheet 3.0
inline constexpr uint64_t kIoApicSize = 0x1000;
inline constexpr uint8_t kIoApicId = 0;                 // what its ID register holds after reset
inline constexpr unsigned kIoApicPins = 24;
inline constexpr uint32_t kGsiBase = 0;                 // global system interrupt of pin 0
// The local APIC ID of a vCPU is its number.

// Firmware's, in the BIOS area: code by which a processor goes on behind a reset (restart.h). A page below 1 MiB.
inline constexpr uint64_t kRestartCode = 0xf1000;
inline constexpr uint64_t kRsdp = 0xe0000;              // the ACPI tables

// Ports.
inline constexpr uint16_t kPic0 = 0x20, kPic1 = 0xa0, kElcr = 0x4d0;
inline constexpr uint16_t kPit = 0x40, kSystemControlB = 0x61;
inline constexpr uint16_t kI8042Data = 0x60, kI8042Command = 0x64, kSystemControlA = 0x92;
inline constexpr uint16_t kRtcIndex = 0x70, kRtcData = 0x71;
inline constexpr uint16_t kDebugExit = 0xf4;            // isa-debug-exit
inline constexpr uint16_t kDebugConsoleE9 = 0xe9, kDebugConsole402 = 0x402;
inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kResetControl = 0xcf9;

// ACPI fixed hardware (ACPI 6.5, 4.8.3). There is no SMI_CMD port and no GPE block: the machine is always in ACPI mode.
inline constexpr uint16_t kPm1aEvent = 0x600;           // PM1_STS at 0x600, PM1_EN at 0x602; 4 bytes
inline constexpr uint16_t kPm1aControl = 0x604;         // PM1_CNT; 2 bytes
inline constexpr uint16_t kPmTimer = 0x608;             // PM_TMR; 4 bytes, 32 bits count (FADT flag TMR_VAL_EXT)
inline constexpr uint64_t kPmTimerHz = 3'579'545;
inline constexpr unsigned kPmTimerBits = 32;
inline constexpr uint8_t kSleepTypeS3 = 1;              // SLP_TYP for sleep to RAM, where acpi-pm has it (s3=on)
inline constexpr uint8_t kSleepTypeS5 = 5;              // SLP_TYP for soft-off: \_S5 = Package { 5, 5, 0, 0 }
inline constexpr uint8_t kResetValue = 0x06;  // written to kResetControl resets the machine (FADT RESET_REG, RESET_VALUE)

// ISA interrupt lines. Line n is IO-APIC pin (= GSI) n, active high, edge; with these overrides (MADT type 2):
inline constexpr unsigned kPitIrq = 0, kPitGsi = 2; // 8254 counter 0: edge, active high
inline constexpr unsigned kSciIrq = 9, kSciGsi = 9;     // level, active high
inline constexpr unsigned kKeyboardIrq = 1, kSerialIrq = 4, kRtcIrq = 8, kAuxIrq = 12;
// IO-APIC pin 0 carries INTR of the 8259A pair (ExtINT); the local APICs' LINT0 too. LINT1 is NMI and nothing drives it.
inline constexpr unsigned kPicGsi = 0;

}  // namespace retrovisor::machine_map
